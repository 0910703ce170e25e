# Licensed under the Apache License, Version 2.0 (the "License"); you may
# not use this file except in compliance with the License. You may obtain
# a copy of the License at
#
#      http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS, WITHOUT
# WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied. See the
# License for the specific language governing permissions and limitations
# under the License.

import os
import subprocess
import sys

import pytest

from lab.bench import usage
from lab.observe import processes
from lab.openstack import process
from lab.openstack import settings


def test_this_process_is_among_them():
    assert os.getpid() in {one.pid for one in processes.every()}
    assert processes.memory_peak(os.getpid()) > 1 << 20


def test_bytes_read_from_the_page_cache_count(tmp_path):
    (tmp_path / 'file').write_bytes(bytes(1 << 20))
    [one] = [one for one in processes.every() if one.pid == os.getpid()]
    before = usage.bytes_read(one)
    (tmp_path / 'file').read_bytes()
    assert usage.bytes_read(one) >= before + (1 << 20)


def test_a_process_by_its_command_line():
    words = 'import time; time.sleep(60)'
    child = subprocess.Popen([sys.executable, '-c', words])
    try:
        process.wait_for('the process', lambda: child.pid in [
            one.pid for one in processes.matching(words)], 10)
    finally:
        child.kill()
        child.wait()
    assert child.pid not in [one.pid for one in processes.matching(words)]
    assert processes.memory_peak(child.pid) == 0


def test_cpu_between_two_moments():
    samples = [usage.Sample(float(when), {'nova': when * 2.0, 'qemu': 1.0})
               for when in range(10)]
    assert usage.spent(samples, 2.1, 6.8) == {'nova': 10.0, 'qemu': 0.0}
    assert usage.spent([], 0.0, 1.0) == {}


def test_files_without_a_name(tmp_path):
    before = usage.unnamed_bytes(os.getpid())
    with open(tmp_path / 'file', 'wb') as file:
        file.write(bytes(1 << 20))
        file.flush()
        os.fsync(file.fileno())
        assert usage.unnamed_bytes(os.getpid()) == before
        os.unlink(tmp_path / 'file')
        assert usage.unnamed_bytes(os.getpid()) >= before + (1 << 20)


def test_the_scratch_file_is_not_staged(tmp_path):
    place = tmp_path / 'snapdriver-01234567'
    place.mkdir()
    for name, size in (('scratch', 8), ('copy', 4)):
        with open(place / name, 'wb') as file:
            file.write(bytes(size << 10))
            os.fsync(file.fileno())
    assert usage.staged_bytes(tmp_path) == 4 << 10


def test_a_command_is_timed(tmp_path):
    # Long enough to be looked at once, however fast Python starts.
    took = usage.timed(tmp_path / 'log', sys.executable, '-c',
                       'import time; time.sleep(0.5)')
    assert took.memory_peak > 1 << 20
    assert took.seconds > 0


def test_a_command_that_fails(tmp_path):
    with pytest.raises(settings.LabError):
        usage.timed(tmp_path / 'log', sys.executable, '-c', 'exit(3)')
