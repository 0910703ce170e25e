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

import dataclasses
import re

from nova.compute import power_state
import pytest

from nova_snapdriver import imagebackend
from nova_snapdriver import plan

DISK = imagebackend.RootDisk(
    'vda', 'disk', imagebackend.Source('file', 'qcow2', '/disk'))
FACTS = plan.Facts(virt_type='kvm', power_state=power_state.RUNNING,
                   disk=DISK, image_format='qcow2')


def disk(**changes):
    source = {name: changes.pop(name) for name in
              ('type', 'format', 'encrypted', 'rbd') if name in changes}
    return dataclasses.replace(
        DISK, source=dataclasses.replace(DISK.source, **source), **changes)


@pytest.mark.parametrize('changes', (
    {},
    {'virt_type': 'qemu'},
    {'power_state': power_state.PAUSED},
    {'power_state': power_state.SUSPENDED},     # asleep in S3
    {'disk': disk(format='raw'), 'image_format': 'raw'},
    {'disk': disk(type='block', format='raw')},
    {'disk': disk(backing=(imagebackend.Source('file', 'raw', '/base'),))}))
def test_live(changes):
    chosen = plan.choose(dataclasses.replace(FACTS, **changes))
    assert chosen.path is plan.Path.LIVE


@pytest.mark.parametrize('changes, reason', (
    ({'virt_type': 'lxc', 'disk': None}, 'lxc'),
    ({'virt_type': 'parallels'}, 'parallels'),
    ({'disk': None}, 'no disk'),
    ({'power_state': power_state.SHUTDOWN,
      'server_missing': ('qemu-nbd',)}, 'shutdown, and this host lacks qemu'),
    ({'power_state': power_state.SUSPENDED, 'live_method': 'cold'},
     'cold, and libvirt does not save'),
    ({'power_state': power_state.NOSTATE}, 'pending'),
    ({'disk': disk(type='network')}, 'network'),
    ({'disk': disk(type='volume')}, 'volume'),
    ({'disk': disk(format='vmdk')}, 'vmdk'),
    ({'disk': disk(format='luks')}, 'luks'),
    ({'disk': disk(encrypted=True)}, 'encrypted'),
    ({'disk': disk(backing=(imagebackend.Source(
        'file', 'qcow2', '/base', encrypted=True),))}, 'encrypted'),
    ({'encryption': True}, 'encrypted'),
    ({'disk': disk(device='cdrom')}, 'cdrom'),
    ({'disk': disk(read_only=True)}, 'read-only'),
    ({'image_format': 'vdi'}, 'vdi'),
    ({'live_disabled': True, 'server_missing': ('qemu-nbd',)},
     'disable_libvirt_livesnapshot is set, and this host lacks qemu-nbd'),
    ({'missing': ('libnbd (package x)', 'QEMU 6'),
      'server_missing': ('libnbd (package x)',)},
     r'libnbd \(package x\), QEMU 6, and this host lacks libnbd')))
def test_stock_and_why(changes, reason):
    chosen = plan.choose(dataclasses.replace(FACTS, **changes))
    assert chosen.path is plan.Path.STOCK
    assert re.search(reason, chosen.reason)


@pytest.mark.parametrize('changes', (
    {}, {'live_disabled': True}, {'virt_type': 'lxc'}, {'encryption': True},
    {'power_state': power_state.SHUTDOWN}, {'missing': ('QEMU 6',)}))
def test_block_job_is_not_handed_to_a_driver_that_would_abort_it(changes):
    chosen = plan.choose(dataclasses.replace(FACTS, block_job=True, **changes))
    assert chosen.path is plan.Path.REFUSED
    assert 'block job' in chosen.reason


@pytest.mark.parametrize('changes, reason', (
    ({'missing': ('QEMU 6',)}, 'running and this host lacks QEMU 6'),
    ({'power_state': power_state.PAUSED, 'live_method': 'mirror'},
     'paused and .*live_method')))
def test_mirror_and_why(changes, reason):
    chosen = plan.choose(dataclasses.replace(FACTS, **changes))
    assert chosen.path is plan.Path.MIRROR
    assert re.search(reason, chosen.reason)


@pytest.mark.parametrize('changes, reason', (
    ({'live_disabled': True}, 'running and .*disable_libvirt_livesnapshot'),
    ({'live_disabled': True, 'live_method': 'mirror'}, 'livesnapshot'),
    ({'live_method': 'cold', 'power_state': power_state.PAUSED},
     'paused and .*live_method is cold')))
def test_guest_that_is_to_be_suspended_and_why(changes, reason):
    chosen = plan.choose(dataclasses.replace(FACTS, **changes))
    assert (chosen.path, chosen.suspends) == (plan.Path.COLD, True)
    assert re.search(reason, chosen.reason)


@pytest.mark.parametrize('changes', (
    {'power_state': power_state.SHUTDOWN},
    {'power_state': power_state.CRASHED},
    {'power_state': power_state.SHUTDOWN, 'missing': ('QEMU 6',)},
    {'power_state': power_state.SHUTDOWN, 'live_disabled': True}))
def test_cold(changes):
    chosen = plan.choose(dataclasses.replace(FACTS, **changes))
    assert (chosen.path, chosen.suspends) == (plan.Path.COLD, False)


RBD = disk(type='network', format='raw',
           rbd=imagebackend.Rbd('vms', 'disk'))


def on_rbd(**changes):
    return plan.choose(dataclasses.replace(
        FACTS, disk=RBD, image_format='raw', **changes))


def test_rbd_is_copied_by_ceph_and_otherwise_read():
    chosen = on_rbd(not_direct=None)
    assert chosen.path is plan.Path.DIRECT
    assert chosen.fallback.path is plan.Path.LIVE
    assert chosen.fallback.fallback is None


def test_rbd_is_copied_by_ceph_whatever_job_runs_and_else_not_read():
    chosen = on_rbd(not_direct=None, block_job=True)
    assert chosen.path is plan.Path.DIRECT
    assert chosen.fallback.path is plan.Path.REFUSED


def test_rbd_with_glance_elsewhere_is_read():
    chosen = on_rbd(not_direct='Glance is elsewhere')
    assert (chosen.path, chosen.fallback) == (plan.Path.LIVE, None)


def test_rbd_of_a_stopped_server_is_copied_by_ceph():
    chosen = on_rbd(not_direct=None, power_state=power_state.SHUTDOWN)
    assert chosen.path is plan.Path.DIRECT


def test_rbd_of_a_stopped_server_is_read_by_a_program_of_our_own():
    stopped = {'not_direct': 'Glance is elsewhere',
               'power_state': power_state.SHUTDOWN}
    assert on_rbd(**stopped).path is plan.Path.COLD
    chosen = on_rbd(**stopped, not_held='Ceph does not answer')
    assert chosen.path is plan.Path.STOCK
    assert 'Ceph does not answer' in chosen.reason
    chosen = on_rbd(**stopped, server_missing=('qemu-nbd',))
    assert chosen.path is plan.Path.STOCK


def test_rbd_is_not_mirrored():
    for changes in ({'live_method': 'mirror'}, {'missing': ('QEMU 6',)}):
        chosen = on_rbd(not_direct='Glance is elsewhere', **changes)
        assert chosen.path is plan.Path.STOCK


def test_rbd_that_is_to_be_suspended():
    chosen = on_rbd(not_direct='Glance is elsewhere', live_disabled=True)
    assert (chosen.path, chosen.suspends) == (plan.Path.COLD, True)
    chosen = on_rbd(not_direct='Glance is elsewhere', live_disabled=True,
                    not_held='another pool')
    assert chosen.path is plan.Path.STOCK


def test_what_is_not_ours_is_not_copied_by_ceph():
    assert on_rbd(not_direct=None, encryption=True).path is plan.Path.STOCK


@pytest.mark.parametrize('not_stored, stored, destination', (
    ('', False, ''),
    (None, True, 'rbd, '),
    ('Ceph is away', False, 'glance, as Ceph is away')))
@pytest.mark.parametrize('changes', (
    {}, {'missing': ('x',)}, {'power_state': power_state.SHUTDOWN}))
def test_destination(changes, not_stored, stored, destination):
    chosen = plan.choose(dataclasses.replace(
        FACTS, not_stored=not_stored, **changes))
    assert chosen.stored is stored
    assert chosen.destination.startswith(destination)


def test_nova_s_own_snapshot_is_uploaded():
    chosen = plan.choose(dataclasses.replace(
        FACTS, virt_type='lxc', not_stored=None))
    assert (chosen.stored, chosen.destination) == (False, '')


def test_disk_that_ceph_does_not_copy_is_uploaded():
    """Its location would be refused as that of the copy was."""
    chosen = plan.choose(dataclasses.replace(
        FACTS, not_direct=None, not_stored=None))
    assert chosen.path is plan.Path.DIRECT
    assert not chosen.fallback.stored
