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

"""A snapshot whose process is killed, on a real libvirt, and what follows."""

import signal
import subprocess
import sys
from unittest import mock

from nova import exception as nova_exception
import pytest

from tests.functional import crashes
from tests.functional import disks

COMMAND_SECONDS = 60

# Takes a snapshot up to a point, and is killed there.
SCRIPT = """
if point == 'made':
    live._begin = die
elif point == 'frozen':
    guest.begin_backup = die
with noted('live') as record:
    if point == 'noted':
        die()
    disk = imagebackend.root_disk(guest.live_xml())
    with live.capture(request.Request(
            guest, disk, quiesce.Settings(5, False, False), place, record)):
        if point == 'running':
            print('captured', flush=True)
            sys.stdin.read()
        die()
"""


def start(guest, area, point):
    return crashes.start(SCRIPT, guest, area, point)


@pytest.fixture
def entries(area):
    return crashes.entries_of(area)


@pytest.mark.quick
@pytest.mark.parametrize('point', ('noted', 'made', 'frozen', 'captured'))
def test_killed_at(point, area, start_domain, entries):
    guest = start_domain(disks.make_qcow2(area, None))
    process = start(guest, area, point)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert crashes.left(area)
    assert guest.has_job() == (point == 'captured')

    # Looking does nothing.
    outcome, = crashes.recover(guest, entries, dry_run=True)
    assert guest.has_job() == (point == 'captured')

    delete_image = mock.Mock(return_value=True)
    outcome, = crashes.recover(guest, entries, delete_image)
    assert outcome.failed == ()
    deleted, = delete_image.call_args.args
    assert deleted.entry == outcome.entry
    assert (deleted.entry.image, deleted.entry.instance) == (
        crashes.IMAGE_ID, guest.domain.UUIDString())
    guest.assert_untouched()
    assert crashes.left(area) == []
    assert crashes.recover(guest, entries) == []


def test_running_snapshot_is_none_of_its_business(area, start_domain, entries):
    guest = start_domain(disks.make_qcow2(area, None))
    process = start(guest, area, 'running')
    assert process.stdout.readline() == b'captured\n'
    assert crashes.recover(guest, entries) == []
    assert guest.has_job()
    found, = entries.running()
    assert found.entry.image == crashes.IMAGE_ID
    process.kill()
    process.communicate()
    outcome, = crashes.recover(guest, entries)
    assert 'ended its backup job' in outcome.done
    guest.assert_untouched()


def test_job_of_somebody_else_is_left_alone(area, start_domain, entries):
    guest = start_domain(disks.make_qcow2(area, None))
    start(guest, area, 'noted').communicate()
    guest.domain.backupBegin(
        "<domainbackup mode='pull'><server transport='unix' "
        "socket='/var/tmp/snapdriver-test-theirs'/></domainbackup>", None, 0)
    outcome, = crashes.recover(guest, entries)
    assert outcome.failed == ()
    assert guest.has_job()
    guest.domain.abortJob()
    assert crashes.left(area) == []


def test_domain_that_is_gone(area, start_domain, entries):
    guest = start_domain(disks.make_qcow2(area, None))
    start(guest, area, 'captured').communicate()
    guest.domain.destroy()
    outcome, = crashes.recover(None, entries)
    assert outcome.failed == ()
    assert crashes.left(area) == []


def test_what_fails_is_tried_again(area, start_domain, entries):
    guest = start_domain(disks.make_qcow2(area, None))
    start(guest, area, 'captured').communicate()
    refused = nova_exception.ImageNotAuthorized(image_id=crashes.IMAGE_ID)
    outcome, = crashes.recover(guest, entries, mock.Mock(side_effect=refused))
    assert len(outcome.failed) == 1
    # The guest does not wait for the image.
    guest.assert_untouched()
    outcome, = crashes.recover(guest, entries)
    assert outcome.failed == ()
    assert crashes.left(area) == []


@pytest.mark.quick
def test_by_hand(area, start_domain, entries):
    """The commands, as an operator runs them: they come to their end."""
    guest = start_domain(disks.make_qcow2(area, None))
    start(guest, area, 'captured').communicate()
    listed = command(area, 'list')
    assert listed.returncode == 0, listed.stderr
    assert guest.domain.UUIDString() in listed.stdout
    assert 'abandoned' in listed.stdout

    planned = command(area, 'recover', '--dry-run')
    assert 'to do: ended its backup job' in planned.stdout
    assert guest.has_job()

    done = command(area, 'recover')
    assert 'done: ended its backup job' in done.stdout
    guest.assert_untouched()
    # There is no Glance to ask for the image, which is said, and not hidden.
    assert 'FAILED' in done.stdout
    assert done.returncode == 1


def command(area, *words):
    file = area / 'nova.conf'
    file.write_text('[DEFAULT]\nhost = host\n'
                    '[libvirt]\nvirt_type = qemu\n[snapdriver]\n'
                    'journal_directory = %s\n' % (area / 'journal'))
    return subprocess.run(
        [sys.executable, '-c', 'import sys;'
         'from nova_snapdriver.cmd import main; sys.exit(main.main())',
         words[0], '--config-file', file, *words[1:]],
        timeout=COMMAND_SECONDS, capture_output=True, text=True)
