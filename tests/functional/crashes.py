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

"""Snapshots whose process is killed, and the recovery that follows."""

import subprocess
import sys
from unittest import mock

from nova import exception as nova_exception
from nova.virt.libvirt import guest as nova_guest

from nova_snapdriver import database
from nova_snapdriver import journal
from nova_snapdriver.recovery import images
from nova_snapdriver.recovery import undo

IMAGE_ID = '6ed4ff3f-7c4b-4a6f-9b5c-0d1b7e1e7e11'

# How a process begins that is to be killed in the middle of a snapshot.
BEGINNING = """
import os, signal, sys, threading
import libvirt
import nova.privsep
from nova.virt.libvirt import guest as nova_guest
from nova_snapdriver import guest as snap_guest
from nova_snapdriver import imagebackend, journal
from nova_snapdriver.capture import live, mirror, quiesce, request, workspace

uuid, area, image, point = sys.argv[1:]
nova.privsep.sys_admin_pctxt.set_client_mode(False)
libvirt.virEventRegisterDefaultImpl()
def turn():
    while True:
        libvirt.virEventRunDefaultImpl()
threading.Thread(target=turn, daemon=True).start()
domain = libvirt.open('qemu:///system').lookupByUUIDString(uuid)
guest = snap_guest.Guest(nova_guest.Guest(domain), None)
place = workspace.locate(area)
def noted(path):
    record = journal.Journal(area + '/journal', 'host').begin(journal.Entry(
        'host', uuid, image, place.path, place.socket, journal.now()))
    record.note_planned(journal.Planned(path))
    return record
def die(*args):
    os.kill(os.getpid(), signal.SIGKILL)
"""


def start(script, guest, area, point):
    """Start a snapshot that is killed at a point.

    :param script: what follows BEGINNING
    """
    return subprocess.Popen(
        [sys.executable, '-c', BEGINNING + script, guest.domain.UUIDString(),
         str(area), IMAGE_ID, point],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def run(script, guest, area, point):
    """As `start`, and wait for its end, whose status is returned."""
    with start(script, guest, area, point) as process:
        process.communicate(timeout=120)
    return process.returncode


def entries_of(area):
    """The journal that such a process writes."""
    return journal.Journal(str(area / 'journal'), 'host')


def recover(guest, entries, delete_image=None, refusal=None, **options):
    """Undo what the entries of a journal tell.

    :param guest: whose they are; None if its domain is gone
    :param delete_image: stands for Glance
    :param refusal: why Nova's database would not have the guest run
    """
    host = mock.Mock()
    if guest is None:
        host.get_guest.side_effect = nova_exception.InstanceNotFound(
            instance_id='gone')
    else:
        host.get_guest.return_value = nova_guest.Guest(guest.domain)

    def launch(uuid, wrapped):
        wrapped.start()
        return []

    attach = mock.Mock(return_value=[])

    with (mock.patch.object(images, 'delete_unfinished',
                            delete_image or mock.Mock(return_value=True)),
          mock.patch.multiple(
              database, why_not_here=mock.Mock(return_value=refusal),
              why_not_running=mock.Mock(return_value=refusal))):
        return undo.Recovery(undo.Tools(host, launch, attach, 5),
                             **options).run(entries)


def left(area):
    """What a snapshot has left in its directory and in the journal."""
    return sorted(area.glob('snapdriver-*')) + sorted(
        area.glob('journal/*'))
