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

"""Mishaps in the middle of an upload: processes, people, agents, disks."""

import base64
import contextlib
import os
import pathlib
import signal
import subprocess
import time

from lab.faults import cases
from lab.faults import harness
from lab.observe import processes
from lab.openstack import config
from lab.openstack import domain
from lab.openstack import process
from lab.openstack import services
from lab.openstack import settings

AWAY_SECONDS = 20.0
TOKEN_SECONDS = 25
Case = cases.Case
HOOK = '/run/hook'
# Longer than the driver waits for the agent, with its retries.
HANG_SECONDS = 16
HANGS = f'test "$1" = thaw || sleep {HANG_SECONDS}'
# Left free on the small file system.
LITTLE_BYTES = 8 << 20
FILL_MIB = 24
REFUSED: tuple[tuple[str, dict[str, object]], ...] = (
    ('os-stop', {}), ('reboot', {'type': 'HARD'}),
    ('resize', {'flavorRef': '1'}),
    ('os-migrateLive', {'host': None, 'block_migration': 'auto'}))
READ_AHEAD = (('snapdriver', 'read_ahead_limit', '64'),
              ('snapdriver', 'read_ahead_threshold', '1'))
FREEZE_POINT = 'freeze.done'
SAVED_POINT = 'suspend.saved'
VERIFIED_POINT = 'upload.verified'


def listed() -> list[Case]:
    """Return all rows, those with the same options in sequence."""
    return [*_processes(), *_people(), *_agents(), *_run_ahead(),
            *_full_disks()]


def _processes() -> list[Case]:
    return [
        Case('the stream process is killed', 'gone', during=kill_stream,
             quick=True, only_ours=True),
        Case('the stream process is stopped', 'gone', during=stop_stream,
             only_ours=True),
        Case('nova-compute is killed in the upload', 'gone',
             during=kill_compute, quick=True),
        Case('libvirtd is killed and started', 'active',
             during=restart_libvirtd),
        Case('QEMU is killed', 'gone', 'stopped', during=kill_qemu),
        Case('glance is killed and started', 'either',
             during=restart_glance),
        Case('glance is away for 20 s', 'gone', during=kill_glance,
             after=start_glance_late),
        Case("the user's token expires", 'active', before=shorten_tokens,
             during=outlive_token, after=lengthen_tokens),
        Case('RabbitMQ is away for 20 s', 'active', during=lose('rabbitmq')),
        # Glance needs it, too, to make the image active.
        Case('MariaDB is away for 20 s', 'either', during=lose('mariadb'))]


def _people() -> list[Case]:
    return [
        Case('virsh destroy', 'gone', 'stopped',
             during=lambda scene: scene.domain.stop()),
        Case('virsh reset', 'active', 'booted', during=reset),
        Case('virsh managedsave', 'active', fault=None,
             before=hold_at(VERIFIED_POINT), during=managedsave,
             only_ours=True),
        Case('the image is deleted', 'gone',
             during=lambda scene: scene.lab.cloud.delete_image(
                 scene.image_id)),
        Case('stop, reboot, resize and migration are asked for', 'active',
             during=request_refused),
        Case('the server is deleted', 'gone', 'deleted',
             during=lambda scene: scene.lab.cloud.delete_server(
                 scene.server.id))]


def _agents() -> list[Case]:
    return [
        Case('the agent hangs in the freeze', 'active', before=hang_freeze,
             after=unhook),
        Case('the agent hangs in the thaw', 'gone', fault=None,
             before=hang_thaw, during=hold_frozen, after=unhook,
             only_ours=True)]


def _run_ahead() -> list[Case]:
    return [
        Case(f'{words} once the job has ended', 'gone',
             during=in_sequence(end_early, kill),
             options=READ_AHEAD, only_ours=True)
        for words, kill in (('the stream process is killed', kill_stream),
                            ('nova-compute is killed', kill_compute))]


def _full_disks() -> list[Case]:
    def small(*more: tuple[str, str, str]) -> config.Options:
        return (('snapdriver', 'scratch_directory', '{small}/scratch'),
                *more)

    no_reserve = ('snapdriver', 'scratch_reserve', '0')
    return [
        Case("glance's disk is full", 'gone', fault=None,
             before=fill_glance, after=empty_glance),
        Case('the scratch directory is small', 'gone', fault=None,
             after=lambda scene: scene.harness.compute(),
             options=small(), only_ours=True),
        Case('the scratch file has no room', 'gone',
             before=little_room(LITTLE_BYTES), during=write,
             after=empty_small,
             options=small(no_reserve), only_ours=True),
        # Either fills first: an upload that is held late spools little.
        Case('the spool and the scratch file have no room', 'either',
             before=little_room(FILL_MIB << 20), during=write,
             after=empty_small,
             options=small(no_reserve, *READ_AHEAD), only_ours=True),
        Case('the copy of a suspended disk has no room', 'gone', fault=None,
             before=hold_at(SAVED_POINT), during=fill_while_saved,
             after=empty_small,
             options=small(no_reserve, ('snapdriver', 'live_method', 'cold')),
             only_ours=True)]


# Points


def hold_at(point: str) -> cases.Action:
    """Hold the snapshot at a point until it is disarmed."""
    return lambda scene: scene.harness.arm((point,), 'hold')


def wait_at(point: str, scene: cases.Scene) -> None:
    """Wait until the snapshot is held there."""
    cases.waiting_for(point, lambda: scene.harness.taken(point))


# Processes


def kill_stream(scene: cases.Scene) -> None:
    _signal_stream(scene, signal.SIGKILL)


def stop_stream(scene: cases.Scene) -> None:
    """Stop it for good: the driver gives it up after a minute."""
    _signal_stream(scene, signal.SIGSTOP)


def _signal_stream(scene: cases.Scene, number: signal.Signals) -> None:
    found = processes.matching(
        f'nova_snapdriver.stream --socket {scene.lab.settings.root}')
    if not found:
        raise settings.LabError('there is no stream process')
    for one in found:
        with contextlib.suppress(ProcessLookupError):
            os.kill(one.pid, number)


def kill_compute(scene: cases.Scene) -> None:
    found = scene.harness
    services.NovaCompute(found.conf, config.Compute()).kill()
    found.proxy.clear()
    found.restart()


def restart_libvirtd(scene: cases.Scene) -> None:
    libvirtd = scene.lab.libvirtd
    if libvirtd.record() is None:
        raise settings.LabError("libvirtd is the machine's own")
    libvirtd.kill()
    libvirtd.ensure()


def kill_qemu(scene: cases.Scene) -> None:
    name = scene.domain.name
    path = pathlib.Path(f'/run/libvirt/qemu/{name}.pid')
    os.kill(int(path.read_text()), signal.SIGKILL)


def kill_glance(scene: cases.Scene) -> None:
    """Kill it and wait for its port: workers end after their master."""
    found = scene.harness
    found.lab.wsgi['glance'].kill()
    cases.waiting_for('the end of Glance', lambda: not process.listens(
        found.conf.ports.glance))


def restart_glance(scene: cases.Scene) -> None:
    kill_glance(scene)
    scene.harness.proxy.clear()
    scene.lab.wsgi['glance'].ensure()


def start_glance_late(scene: cases.Scene) -> None:
    time.sleep(AWAY_SECONDS)
    scene.lab.wsgi['glance'].ensure()


def shorten_tokens(scene: cases.Scene) -> None:
    """Have Keystone issue tokens that expire soon, and use one."""
    _keystone(scene, {'token': {'expiration': str(TOKEN_SECONDS)}})


def lengthen_tokens(scene: cases.Scene) -> None:
    _keystone(scene, {})


def _keystone(scene: cases.Scene, more: config.Ini) -> None:
    lab, conf = scene.lab, scene.lab.settings
    ini = config.keystone(conf)
    for group, options in more.items():
        ini.setdefault(group, {}).update(options)
    config.write(conf.etc / 'keystone/keystone.conf', ini)
    lab.wsgi['keystone'].ensure()
    scene.lab.cloud.forget_token()


def outlive_token(scene: cases.Scene) -> None:
    """Wait until it has expired, and empty the cache of valid tokens."""
    time.sleep(TOKEN_SECONDS + 1)
    scene.lab.memcached.stop()
    scene.lab.memcached.ensure()
    scene.lab.cloud.forget_token()


def lose(name: str) -> cases.Action:
    """Kill a service, and start it again after a while."""
    def act(scene: cases.Scene) -> None:
        daemon: process.Daemon = getattr(scene.lab, name)
        daemon.kill()
        scene.harness.proxy.clear()
        time.sleep(AWAY_SECONDS)
        daemon.ensure()

    return act


# People


def reset(scene: cases.Scene) -> None:
    domain.virsh('reset', scene.domain.name)
    scene.one.without_agent = True


def managedsave(scene: cases.Scene) -> None:
    """Save the domain: libvirt waits half a minute and refuses.

    Held at a point: Glance's web server would give up an upload by then.
    """
    wait_at(VERIFIED_POINT, scene)
    child = subprocess.Popen(
        [*domain.VIRSH, 'managedsave', scene.domain.name],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        env=settings.environment())
    code = child.wait(60)
    scene.harness.disarm()
    if code == 0:
        raise settings.LabError('a save was allowed during a backup job')


def request_refused(scene: cases.Scene) -> None:
    """Request actions that Nova's API refuses during a snapshot."""
    for action, arguments in REFUSED:
        try:
            scene.lab.cloud.action(scene.server.id, action, **arguments)
        except settings.LabError as error:
            if 'image_uploading' not in str(error):
                raise
        else:
            raise settings.LabError(f'{action} was allowed meanwhile')


def in_sequence(*actions: cases.Action) -> cases.Action:
    def act(scene: cases.Scene) -> None:
        for action in actions:
            action(scene)
    return act


def end_early(scene: cases.Scene) -> None:
    """Have the guest write, until the disk is read ahead of the upload."""
    write(scene)
    cases.waiting_for('the end of the job', lambda: not
                      scene.domain.has_backup_job())


# The agent


def hook(found: domain.Domain, script: str) -> None:
    """Have a guest's agent run a script before it freezes, and after."""
    agent = found.agent
    handle = agent('guest-file-open', path=HOOK, mode='w')
    text = base64.b64encode(f'#!/bin/sh\n{script}\n'.encode()).decode()
    agent('guest-file-write', handle=handle, **{'buf-b64': text})
    agent('guest-file-close', handle=handle)


def hang_freeze(scene: cases.Scene) -> None:
    hook(scene.domain, HANGS)


def hang_thaw(scene: cases.Scene) -> None:
    """Stop the agent for a while, shortly after the freeze."""
    hook(scene.domain,
         'test "$1" = thaw || (sleep 1; killall -STOP qemu-ga; '
         f'sleep {HANG_SECONDS}; killall -CONT qemu-ga) '
         '< /dev/null > /dev/null 2>&1 &')
    hold_at(FREEZE_POINT)(scene)


def hold_frozen(scene: cases.Scene) -> None:
    wait_at(FREEZE_POINT, scene)
    time.sleep(harness.AGENT_TIMEOUT)
    scene.harness.disarm()


def unhook(scene: cases.Scene) -> None:
    """Remove the hook, once the agent answers and a late freeze ended."""
    cases.waiting_for('the agent', lambda: takes_no_hook(scene.domain))


def takes_no_hook(found: domain.Domain) -> bool:
    """Remove the hook; returns whether the agent answers."""
    try:
        hook(found, '')
    except settings.LabError:
        return False
    return True


# Full disks


def _fill(folder: pathlib.Path, left: int) -> None:
    found = os.statvfs(folder)
    free = found.f_bavail * found.f_frsize
    with open(folder / 'ballast', 'wb') as file:
        os.posix_fallocate(file.fileno(), 0, max(1, free - left))


def fill_glance(scene: cases.Scene) -> None:
    """Mount a small file system where Glance stores images."""
    process.output('mount', '-t', 'tmpfs', '-o', 'size=16m', 'tmpfs',
                   _store(scene))


def empty_glance(scene: cases.Scene) -> None:
    cases.waiting_for('the store to be left alone', lambda: _unmounted(scene))


def _unmounted(scene: cases.Scene) -> bool:
    try:
        process.output('umount', _store(scene))
    except settings.LabError:
        return False
    return True


def _store(scene: cases.Scene) -> pathlib.Path:
    return scene.lab.settings.root / 'glance/images'


def write(scene: cases.Scene) -> None:
    """Have the guest write a file, in place if it exists.

    QEMU may stop it meanwhile, for want of room.
    """
    agent = scene.domain.agent
    command = (f'dd if=/dev/urandom of=/mnt/fill bs=1M count={FILL_MIB} '
               'conv=notrunc; sync /mnt/fill')
    pid = agent('guest-exec', path='/bin/sh', arg=['-c', command])['pid']

    def written() -> bool:
        try:
            return bool(agent('guest-exec-status', pid=pid)['exited'])
        except settings.LabError:
            return False        # QEMU has stopped the guest for a moment

    cases.waiting_for('the guest to have written', written)


def little_room(left: int) -> cases.Action:
    """Have the guest own a file, and leave so many bytes for its copy."""
    def act(scene: cases.Scene) -> None:
        write(scene)
        _fill(scene.harness.mounted, left)
    return act


def fill_while_saved(scene: cases.Scene) -> None:
    wait_at(SAVED_POINT, scene)
    _fill(scene.harness.mounted, LITTLE_BYTES)
    scene.harness.disarm()


def empty_small(scene: cases.Scene) -> None:
    (scene.harness.mounted / 'ballast').unlink(missing_ok=True)
