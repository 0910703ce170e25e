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

"""The command on real domains, as an operator runs it: no OpenStack at all."""

import contextlib
import dataclasses
import json
import os
import signal
import stat
import subprocess
import sys
import time

import pytest

from nova_snapdriver import faultpoint
from nova_snapdriver import journal
from nova_snapdriver.local import snapshot
from tests.functional import disks
from tests.functional import domains
from tests.functional import images
from tests.unit import journal_entry

SECONDS = 120


class Command:
    """nova-snapdriver, with its directories in the test's."""

    def __init__(self, area):
        self.area = area
        self.faults = area / 'faults'
        self.faults.mkdir()
        self.output = area / 'out' / 'image'
        self.output.parent.mkdir()
        self._directories = ['--journal-directory', area / 'journal']

    def start(self, name, *words):
        return subprocess.Popen(
            [str(word) for word in (
                sys.executable, '-m', 'nova_snapdriver.cmd.main', name,
                *words, *self._directories)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            # As a terminal has it: Ctrl-C is for all of them.
            start_new_session=True,
            env={**os.environ, faultpoint.VARIABLE: str(self.faults)})

    def snapshot(self, guest, *words):
        return self.start('snapshot', guest.name, '--output', self.output,
                          '--scratch-directory', self.area / 'snapshots',
                          *words)

    def run(self, process):
        """Wait for its end; give its status and both outputs."""
        out, err = process.communicate(timeout=SECONDS)
        assert 'Traceback' not in err, err
        return process.returncode, out, err

    def recover(self, *words):
        # The machine may have a nova.conf; this one has no entries.
        conf = self.area / 'nova.conf'
        conf.write_text('[libvirt]\nvirt_type = qemu\n[snapdriver]\n'
                        'journal_directory = %s\n' % (self.area / 'nova'))
        return self.run(self.start('recover', '--config-file', conf, *words))

    def listed(self):
        conf = self.area / 'nova.conf'
        conf.write_text('[snapdriver]\njournal_directory = %s\n' %
                        (self.area / 'nova'))
        status, out, err = self.run(self.start(
            'list', '--json', '--config-file', conf))
        assert status == 0, err
        return json.loads(out)

    def arm(self, point, action):
        (self.faults / faultpoint.ARMED).write_text(
            json.dumps({point: action}))

    def disarm(self):
        (self.faults / faultpoint.ARMED).unlink()

    def wait_at(self, point):
        """Wait until a snapshot is held at a point."""
        deadline = time.monotonic() + SECONDS
        while not (self.faults / (point + faultpoint.TAKEN)).exists():
            assert time.monotonic() < deadline, point
            time.sleep(0.05)

    def assert_clean(self, *files):
        """Nothing is left but these files beside the output."""
        assert sorted(os.listdir(self.output.parent)) == sorted(files)
        for name in ('snapshots', 'journal'):
            if (self.area / name).exists():
                assert os.listdir(self.area / name) == []


@pytest.fixture
def command(area):
    return Command(area)


@pytest.mark.quick
@pytest.mark.parametrize('make, method, image_format, more', (
    (disks.make_qcow2, 'live', 'qcow2', ('--compression', 'zstd')),
    (disks.make_block, 'live', 'raw', ()),
    (disks.make_overlay, 'mirror', 'qcow2', ()),
    (disks.make_raw, 'mirror', 'raw', ())))
def test_running_guest(make, method, image_format, more, area, loop_device,
                       start_domain, command):
    path, disk_format = make(area, loop_device)
    guest = start_domain((path, disk_format))
    status, out, err = command.run(command.snapshot(
        guest, '--method', method, '--format', image_format, '--json', *more))
    assert status == 0, err
    guest.assert_untouched()
    result = json.loads(out)
    assert (result['method'], result['consistency']) == (method, 'crash')
    assert (result['path'], result['disk']) == (str(command.output), 'vda')
    assert result['size'] == command.output.stat().st_size
    hashed = domains.run('sha256sum', command.output).split()[0]
    assert (result['algorithm'], result['digest']) == ('sha256', hashed)
    assert stat.S_IMODE(command.output.stat().st_mode) == 0o600
    command.assert_clean('image')
    guest.domain.destroy()
    images.assert_same(command.output, image_format, path, disk_format)


@pytest.mark.parametrize('stop', ('destroy', 'managedSave', 'suspend',
                                  'undefine'))
def test_guest_in_another_state(stop, area, start_domain, command):
    path, disk_format = disks.make_overlay(area, None)
    guest = start_domain((path, disk_format))
    xml = guest.domain.XMLDesc()
    getattr(guest.domain, stop)()
    state = guest.state()
    status, out, err = command.run(command.snapshot(guest))
    assert status == 0, err
    offline = stop in ('destroy', 'managedSave')
    # What a saved guest had not written yet is in its saved memory.
    consistency = 'offline' if stop == 'destroy' else 'crash'
    assert 'consistency %s' % consistency in out
    assert guest.state() == state
    assert bool(guest.domain.hasManagedSaveImage()) == (stop == 'managedSave')
    command.assert_clean('image')
    if stop == 'undefine':
        guest.domain.connect().defineXML(xml)
    if not offline:
        guest.domain.destroy()
    images.assert_same(command.output, 'qcow2', path, disk_format)


def test_one_disk_of_several(area, start_domain, command):
    first = disks.make_qcow2(area, None)
    second = disks.make_raw(area, None)
    guest = start_domain(first, second)
    status, _, err = command.run(command.snapshot(guest, '--disk', 'vdb'))
    assert status == 0, err
    guest.domain.destroy()
    images.assert_same(command.output, 'qcow2', *second)


def test_refusals_touch_nothing(area, start_domain, command):
    """Each is one sentence, and status 1."""
    guest = start_domain(disks.make_qcow2(area, None))

    def refused(words, *options):
        status, out, err = command.run(command.snapshot(guest, *options))
        assert (status, out) == (1, '')
        assert words in ' '.join(err.split()), err
        guest.assert_untouched()

    refused('no channel for a guest agent', '--quiesce')
    refused('has no disk vdx', '--disk', 'vdx')
    command.assert_clean()
    command.output.write_text('mine')
    refused('--force')
    assert command.output.read_text() == 'mine'
    command.assert_clean('image')


def test_job_of_another_program_is_left_alone(area, start_domain, command):
    guest = start_domain(disks.make_qcow2(area, None))
    guest.domain.backupBegin(
        "<domainbackup mode='pull'><server transport='unix' "
        "socket='/var/tmp/snapdriver-test-theirs'/></domainbackup>", None, 0)
    status, _, err = command.run(command.snapshot(guest))
    assert status == 1
    assert 'job' in err
    assert guest.has_job()
    guest.domain.abortJob()
    command.assert_clean()


@pytest.mark.quick
@pytest.mark.parametrize('method, point', (
    ('live', 'upload.first'), ('live', 'live.begun'),
    ('mirror', 'mirror.begun'), ('mirror', 'upload.answered')))
def test_interrupted(method, point, area, start_domain, command):
    """By Ctrl-C, which the terminal sends to the child processes, too."""
    guest = start_domain(disks.make_qcow2(area, None))
    command.arm(point, 'hold')
    process = command.snapshot(guest, '--method', method)
    command.wait_at(point)
    row, = command.listed()
    assert (row['state'], row['path']) == ('running', method)
    os.killpg(process.pid, signal.SIGINT)
    command.disarm()
    status, out, err = command.run(process)
    assert (status, out) == (130, '')
    assert 'interrupted, nothing is left' in err
    guest.assert_untouched()
    command.assert_clean()


@pytest.mark.parametrize('method, point', (
    ('live', 'live.begun'), ('live', 'upload.verified'),
    ('mirror', 'mirror.begun')))
def test_killed_and_recovered(method, point, area, start_domain, command):
    guest = start_domain(disks.make_qcow2(area, None))
    command.arm(point, 'kill')
    process = command.snapshot(guest, '--method', method)
    assert command.run(process)[0] == -signal.SIGKILL
    command.disarm()
    row, = command.listed()
    assert row['state'] == 'abandoned'
    status, out, err = command.recover()
    assert status == 0, out + err
    assert 'snapshot of domain %s' % guest.domain.UUIDString() in out
    guest.assert_untouched()
    command.assert_clean()


def test_guest_that_an_earlier_snapshot_has_left_frozen(area, start_domain,
                                                        command):
    guest = start_domain(disks.make_qcow2(area, None))
    entries = snapshot.entries_of(str(area / 'journal'))
    with contextlib.closing(entries.begin(dataclasses.replace(
            journal_entry.ENTRY, host=entries.host,
            instance=guest.domain.UUIDString()))) as record:
        record.mark(journal.Mark.FROZEN, 'boot 7')
    status, _, err = command.run(command.snapshot(guest))
    assert status == 1
    assert 'has left the guest frozen' in err
    assert 'nova-snapdriver recover' in err
    assert os.listdir(command.output.parent) == []


def test_killed_beside_a_stopped_guest(area, start_domain, command):
    guest = start_domain(disks.make_qcow2(area, None))
    guest.domain.destroy()
    command.arm('upload.first', 'kill')
    assert command.run(command.snapshot(guest))[0] == -signal.SIGKILL
    assert command.recover()[0] == 0
    command.assert_clean()
    guest.domain.create()
