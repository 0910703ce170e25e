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

"""Images streamed into files, and compared with their disks."""

import contextlib
import os
import threading

from nova_snapdriver.transfer import process
from tests.functional import domains

KIB = 1024
SAMPLE_SECONDS = 0.01


def request(source, image_format='qcow2', **compression):
    return process.Request(source, image_format, 'sha256',
                           process.Compression(**compression))


def stream(source, image, image_format, **compression):
    """Stream into a file, as the process itself would be called.

    :returns: what the process says of the layout
    """
    with open(image, 'wb') as out:
        with process.StreamProcess(
                request(source, image_format, **compression)) as running:
            for chunk in running.chunks():
                out.write(chunk)
    assert os.path.getsize(image) == running.length
    hashed = domains.run('sha256sum', image).split()[0]
    assert running.digest == hashed
    return running._laid_out()


def assert_same(image, image_format, disk, disk_format):
    if image_format == 'qcow2':
        domains.run('qemu-img', 'check', '-f', 'qcow2', image)
    domains.run('qemu-img', 'compare', '-f', image_format, '-F', disk_format,
                image, disk)


def make_disk(path, size, writes):
    """A sparse file with writes of (offset, length, byte)."""
    with open(path, 'wb') as disk:
        disk.truncate(size)
        for offset, length, byte in writes:
            offset = min(offset, size - 1)
            disk.seek(offset)
            disk.write(bytes([byte]) * min(length, size - offset))


def peak_memory(source, image, **compression):
    """Stream into a file; bytes resident at the most, by the kernel's count.

    Of the process's own life: ru_maxrss would count its parent's too.
    """
    with process.StreamProcess(request(source, **compression)) as running:
        peaks, ended = [0], threading.Event()
        # Not between the chunks alone: a small image is one, and with it the
        # process may have ended.
        sampler = threading.Thread(target=_sample, args=(
            running._process.pid, peaks, ended))
        sampler.start()
        try:
            for chunk in running.chunks():
                image.write(chunk)
        finally:
            ended.set()
            sampler.join()
    return max(peaks)


def _sample(pid, peaks, ended):
    while not ended.wait(SAMPLE_SECONDS):
        with (contextlib.suppress(FileNotFoundError, ProcessLookupError),
              open('/proc/%d/status' % pid) as lines):
            peaks += [int(line.split()[1]) * KIB
                      for line in lines if 'VmHWM' in line]
