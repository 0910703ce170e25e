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

"""A compute host for the model: nova-compute's driver, that dies at any step.

The driver's own snapshot() and recovery, with the captures that it makes. The
model plays the stream to Glance, the copies of disks and Nova's manager.
"""

import contextlib
import functools
import itertools
import os
import shutil
import tempfile
import types
from unittest import mock
import uuid

from nova_snapdriver.capture import cold
from nova_snapdriver.capture import export
from nova_snapdriver.capture import mirror
from nova_snapdriver.capture import quiesce
from nova_snapdriver.capture import scratch
from nova_snapdriver.capture import space
from nova_snapdriver.capture import workspace
from nova_snapdriver.compute import planning
from nova_snapdriver.compute import running
from nova_snapdriver import database
from nova_snapdriver import driver
from nova_snapdriver import exception
from nova_snapdriver import faultpoint
from nova_snapdriver import guest as snap_guest
from nova_snapdriver import imagebackend
from nova_snapdriver import journal
from nova_snapdriver import plan
from nova_snapdriver.recovery import undo
from tests.unit import cloud as fake_cloud

HOST = fake_cloud.HOST
DIGEST = 'cafe'
DISK = imagebackend.RootDisk(
    'vda', 'disk', imagebackend.Source('file', 'qcow2', '/disk'),
    (imagebackend.Source('file', 'raw', '/base'),))


class NoThread:
    """The guard's, whose part the model plays."""

    def __init__(self, target, daemon):
        pass

    def start(self):
        pass

    def join(self):
        pass


class Power:
    """Nova's ways to suspend and to start the instance."""

    def __init__(self, cloud):
        self._cloud = cloud

    def suspend(self, context, instance):
        self._cloud.domain.devices = False
        self._cloud.process.step()
        self._cloud.domain.managedSave()

    def launch(self, instance):
        self._cloud.domain.create()

    def attach(self, context, instance):
        self._cloud.attach(instance.uuid, None)

    def launch_again(self, server, guest):
        return self._cloud.launch(server, guest)

    def attach_again(self, server, guest):
        return self._cloud.attach(server, guest)


def make_driver(cloud, entries, plans):
    """nova-compute's, without the parent's beginning."""
    made = driver.SnapDriver.__new__(driver.SnapDriver)
    made._host, made._image_api = cloud, cloud.glance
    made._journal, made._retry = entries, mock.Mock()
    made._power, made._sees_images = Power(cloud), False
    made._running = running.Running(0)
    made._planner = types.SimpleNamespace(plan=plans)
    return made


class Host:
    """One host, with one server, and a nova-compute that is up or not."""

    def __init__(self):
        self.closing = contextlib.ExitStack()
        self.directory = tempfile.mkdtemp(prefix='snap-')
        self.closing.callback(shutil.rmtree, self.directory)
        self.scratch = os.path.join(self.directory, 's')
        self.journal = os.path.join(self.directory, 'j')
        self.cloud = self.closing.enter_context(fake_cloud.Cloud().seen())
        self.up, self.action = True, None
        self.wanted = self.pressure = self.guard = None
        self._patch()
        self.entries = journal.Journal(self.journal, HOST)
        self.compute = self.start_compute()

    def _patch(self):
        put = mock.patch.object
        for patch in (
                put(faultpoint, 'reach', self._reach),
                put(journal.os, 'fsync', lambda descriptor: None),
                # The same history goes the same way each time: entries are
                # undone in the order of their names, and what a process has
                # left is swept away, however long the test takes.
                put(journal, 'uuid', types.SimpleNamespace(
                    UUID=uuid.UUID, uuid4=functools.partial(
                        next, map(uuid.UUID, map('{:032x}'.format,
                                                 itertools.count()))))),
                put(journal, '_WRITE_SECONDS', -1),
                put(database, '_WAIT_SECONDS', 0),
                put(undo, '_AGENT_SECONDS', 0),
                put(space, 'limits', lambda conf: space.Limits(0, 0)),
                put(cold, '_to_hold', lambda request: (
                    contextlib.nullcontext(()), self._served)),
                put(cold.server, 'serve', self._served),
                put(mirror, '_make_overlay', lambda request, owner: None),
                put(mirror, '_take_back', lambda overlay: None),
                put(scratch, 'threading', types.SimpleNamespace(
                    Thread=NoThread, Event=mock.Mock)),
                put(scratch, 'Guard', self._make_guard),
                put(workspace, 'shutil', types.SimpleNamespace(
                    rmtree=self._rmtree)),
                put(driver.SnapDriver, '_send', self._send)):
            self.closing.enter_context(patch)
        for name in ('remove', 'unmark', '_write', 'progress'):
            self.closing.enter_context(mock.patch.object(
                journal.Record, name, self._mortal(
                    getattr(journal.Record, name))))
        override = driver.CONF.set_override
        override('host', HOST)
        override('scratch_directory', self.scratch, 'snapdriver')
        for name, group in (('host', None),
                            ('scratch_directory', 'snapdriver')):
            self.closing.callback(driver.CONF.clear_override, name, group)

    def _reach(self, point):
        # Here nobody would close the lock, which the kernel does for real.
        if point != 'journal.written':
            self.cloud.process.step()

    def _mortal(self, function):
        @functools.wraps(function)
        def call(*arguments):
            self.cloud.process.step()
            return function(*arguments)

        return call

    def _rmtree(self, path):
        self.cloud.process.step()
        shutil.rmtree(path)

    def _make_guard(self, *arguments, real=scratch.Guard):
        self.guard = real(*arguments)
        return self.guard

    @contextlib.contextmanager
    def _served(self, *arguments):
        yield export.Export('/nbd', 'vda')

    # The part of the driver that the model plays

    def _plan(self, context, instance, image_id):
        path, agent, required = self.wanted
        find = functools.partial(self.cloud.get_guest, instance)
        suspends = (path is plan.Path.COLD and
                    self.cloud.domain.number is not None)
        return planning.Way(
            plan.Plan(path, 'the model wants it', suspends=suspends),
            snap_guest.Guest(find(), instance, find), DISK, 'qcow2',
            quiesce.Settings(5, agent, required, 0))

    def _send(self, task, way, captured):
        glance, step = self.cloud.glance, self.cloud.process.step
        glance.ask()
        image = glance.images[task.image.id]
        image['status'] = 'saving'
        if self.pressure and way.plan.path is plan.Path.LIVE:
            self._stop_by_full_scratch()
        step()
        task.record.note_whole(journal.Whole(3, 'sha512', DIGEST))
        step()
        image.update(status='active', size=3, os_hash_value=DIGEST)
        step()
        glance.ask()
        image['verified'] = True

    def _stop_by_full_scratch(self):
        self.cloud.domain.paused = 'io'
        if self.pressure == 'seen':
            # As the guard's thread does, which outlives its errors.
            with contextlib.suppress(Exception):
                self.guard._relieve('full')
        raise exception.StreamFailed(reason='the export is gone')

    def _update(self, task_state, expected_state='image_snapshot'):
        self.cloud.database.save(task_state, [expected_state])

    # What fails

    @contextlib.contextmanager
    def dying(self, steps, failure):
        """Let nova-compute die after so many steps, and a service fail."""
        known = set(self.cloud.glance.deleted)
        self.cloud.process.steps_left = steps
        if failure is not None:
            self._let_fail(*failure)
        try:
            yield
        except fake_cloud.Killed:
            # What it deleted last, it may not have noted.
            self.up, self.cloud.glance.deleted = False, known
        finally:
            process = self.cloud.process
            process.steps_left, process.dead = None, False
            self.cloud.domain.agent_leaves_after = None
            for service in self.services():
                service.fails_after = service.leaves_after = None

    def _let_fail(self, which, calls, stays_away):
        if which == 'agent':
            self.cloud.domain.agent_leaves_after = calls
        elif stays_away:
            getattr(self.cloud, which).leaves_after = calls
        else:
            getattr(self.cloud, which).fails_after = calls

    def services(self):
        return self.cloud.database, self.cloud.libvirt, self.cloud.glance

    def settle(self):
        """See whether what a snapshot has frozen is thawed for good."""
        domain = self.cloud.domain
        domain.settled = domain.frozen != fake_cloud.OURS and not list(
            self.files('.frozen'))

    # The journal

    def files(self, suffix):
        if not os.path.isdir(self.journal):
            return
        for name in os.listdir(self.journal):
            if name.endswith(suffix):
                yield os.path.join(self.journal, name)

    def is_noted_as_saved(self):
        for path in self.files('.frozen'):
            with open(path) as file:
                if file.read() == undo._SAVED:
                    return True
        return False

    # nova-compute

    def start_compute(self):
        return make_driver(self.cloud, self.entries, self._plan)

    def here(self):
        found = self.cloud.database
        return (self.up and not found.deleted and found.host == HOST and
                not found.evacuated)

    def idle(self):
        return self.here() and self.cloud.database.task_state is None

    def may_snapshot(self):
        return self.idle() and self.cloud.database.vm_state != 'error'

    def take_snapshot(self, path, agent, required, pressure, steps, failure):
        if self.cloud.domain.number is None:
            path = plan.Path.COLD
        self.wanted, self.pressure = (path, agent, required), pressure
        found, image = self.cloud.database, str(uuid.uuid4())
        self.cloud.glance.add(image)
        found.task_state = 'image_snapshot'
        # Without both, nova-compute can neither begin nor give up.
        if found.away or (failure and failure[0] == 'database'):
            self.cloud.glance.away = False
        self.cloud.domain.recovering = False
        with self.dying(steps, failure):
            self._take(image)
        self.cloud.domain.recovering = True
        self.settle()

    def _take(self, image):
        """As Nova's manager does."""
        instance = types.SimpleNamespace(uuid=fake_cloud.UUID, name='server')
        try:
            self.compute.snapshot('user', instance, image, self._update)
        except Exception:
            # The manager notes it, once, and deletes the image, once.
            with contextlib.suppress(Exception):
                known = image in self.cloud.glance.deleted
                self.cloud.glance.delete('user', image)
                if not known:           # to us
                    self.cloud.glance.deleted.discard(image)
        with contextlib.suppress(Exception):
            self.cloud.database.save(
                None, [self.cloud.database.task_state])
