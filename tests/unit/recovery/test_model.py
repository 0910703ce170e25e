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

"""Recovery against a model: whatever happens, in whatever order.

The driver's own snapshot() and recovery run against a fake database, libvirt
and Glance that fail at any call, in a process that dies at any step. Meanwhile
the tenant, the operator and Nova do what they like to the server.
"""

import contextlib
import json
import os

import hypothesis
from hypothesis import stateful
from hypothesis import strategies

from nova_snapdriver import plan
from tests.unit import cloud as fake_cloud
from tests.unit.recovery import compute_host

ACTIONS = {'stop': 'powering-off', 'reboot': 'reboot_started_hard',
           'suspend': 'suspending', 'pause': 'pausing', 'start': 'powering-on',
           'resume': 'resuming', 'unpause': 'unpausing'}
# Of which states an action is allowed, and the state after it.
ALLOWED = {'stop': ('active', 'stopped'), 'reboot': ('active', 'active'),
           'suspend': ('active', 'suspended'), 'pause': ('active', 'paused'),
           'start': ('stopped', 'active'), 'resume': ('suspended', 'active'),
           'unpause': ('paused', 'active')}

# Some seconds; a search for hours sets MODEL_EXAMPLES.
EXAMPLES = 200

# Sampled: hypothesis prefers small integers, and a snapshot has many steps.
DYING = strategies.sampled_from(range(80))
# Which, at which call, and whether it is away from then on.
FAILING = strategies.tuples(
    strategies.sampled_from(('libvirt', 'agent', 'database', 'glance')),
    strategies.sampled_from(range(40)), strategies.booleans())
STEPS = strategies.none() | DYING
FAILURES = strategies.none() | FAILING
PATHS = strategies.sampled_from((plan.Path.LIVE, plan.Path.MIRROR,
                                 plan.Path.COLD))
PRESSURE = strategies.sampled_from((None, None, 'seen', 'unseen'))


class Recovery(compute_host.Host, stateful.RuleBasedStateMachine):
    """One server on a host whose nova-compute dies."""

    def __init__(self):
        stateful.RuleBasedStateMachine.__init__(self)
        compute_host.Host.__init__(self)

    def teardown(self):
        with self.closing:
            self.all_answer_and_nothing_is_left()
            self.nothing_is_harmed()

    # nova-compute

    @stateful.initialize(hidden=strategies.booleans())
    def service_user(self, hidden):
        self.cloud.glance.hidden = hidden

    @stateful.precondition(lambda self: self.may_snapshot())
    @stateful.rule(path=PATHS, agent=strategies.booleans(),
                   required=strategies.booleans(), pressure=PRESSURE,
                   failure=FAILURES)
    def snapshot(self, path, agent, required, pressure, failure):
        self.take_snapshot(path, agent, required, pressure, None, failure)

    @stateful.precondition(lambda self: self.may_snapshot())
    @stateful.rule(path=PATHS, pressure=PRESSURE, steps=DYING,
                   failure=FAILURES)
    def snapshot_that_dies(self, path, pressure, steps, failure):
        self.take_snapshot(path, True, False, pressure, steps, failure)

    @stateful.precondition(lambda self: self.may_snapshot() and
                           self.cloud.domain.number is not None)
    @stateful.rule(steps=strategies.sampled_from(range(20, 40)))
    def snapshot_that_leaves_it_suspended(self, steps):
        self.take_snapshot(plan.Path.COLD, True, False, None, steps, None)

    @stateful.precondition(lambda self: not self.up)
    @stateful.rule()
    def restart_without_a_service(self):
        """It fails just when the recovery asks for it, and comes back."""
        self.restart(None, ('database', 0, False))

    @stateful.precondition(lambda self: self.up)
    @stateful.rule(steps=STEPS, failure=FAILURES)
    def try_again(self, steps, failure):
        with self.dying(steps, failure), contextlib.suppress(Exception):
            self.compute._undo_abandoned()
        self.settle()

    @stateful.precondition(lambda self: self.up)
    @stateful.rule()
    def kill(self):
        self.up = False

    @stateful.precondition(lambda self: not self.up)
    @stateful.rule(steps=STEPS, failure=FAILURES)
    def restart(self, steps, failure):
        """Nova itself does not start without its database and libvirt."""
        if self.cloud.database.away or self.cloud.libvirt.away:
            return
        self.up = True
        self.compute = self.start_compute()
        with self.dying(steps, failure):
            self.compute._recover(compute_host.HOST)
        self.settle()
        if self.up:
            self._init()

    def _init(self):
        """What Nova's init_host does after the driver's."""
        found, domain = self.cloud.database, self.cloud.domain
        for migration in found.migrations:
            if migration.status in ('accepted', 'pre-migrating', 'done'):
                domain.stop()
                domain.defined = False
            if migration.status == 'done':
                migration.status = 'completed'
        if found.host != compute_host.HOST:
            return
        if found.task_state in ('image_snapshot', 'image_pending_upload',
                                'image_uploading'):
            found.task_state = None
        if self.action is not None:
            self.end_action()

    @stateful.precondition(lambda self: self.idle() and
                           self.cloud.database.vm_state == 'active' and
                           self.cloud.domain.number is None)
    @stateful.rule()
    def power_sync(self):
        self.cloud.database.vm_state = 'stopped'

    # The tenant

    @stateful.precondition(lambda self: self.may_snapshot())
    @stateful.rule(data=strategies.data())
    def begin_action(self, data):
        domain, state = self.cloud.domain, self.cloud.database.vm_state
        name = data.draw(strategies.sampled_from(
            [one for one, (before, _) in ALLOWED.items() if before == state]))
        if name in ('suspend', 'pause', 'unpause') and (
                domain.number is None or domain.backup or domain.copy):
            return                      # libvirt refuses
        self.action = name
        self.cloud.database.task_state = ACTIONS[name]

    @stateful.precondition(lambda self: self.up and self.action)
    @stateful.rule()
    def end_action(self):
        name, self.action = self.action, None
        found, domain = self.cloud.database, self.cloud.domain
        if found.deleted or found.host != compute_host.HOST:
            return
        {'stop': self._stop, 'reboot': self._reboot, 'start': self._reboot,
         'suspend': self._suspend, 'resume': self._resume,
         'pause': self._pause, 'unpause': self._unpause}[name](domain)
        found.vm_state, found.task_state = ALLOWED[name][1], None

    def _stop(self, domain):
        domain.stop()

    def _reboot(self, domain):
        domain.stop()
        domain.forget_memory()
        domain.boot()

    def _suspend(self, domain):
        if domain.number is not None:
            domain.devices = False
            domain.save(fake_cloud.OTHERS)

    def _resume(self, domain):
        if domain.number is None:
            self._restore(domain)
        domain.devices = True

    def _restore(self, domain):
        """Start it from a memory that somebody has saved.

        If no recovery has seen that the freeze is saved with it, nothing tells
        afterwards.
        """
        if domain.frozen == fake_cloud.OURS and not (
                list(self.files('.suspended')) or self.is_noted_as_saved()):
            domain.frozen = fake_cloud.OTHERS
        domain.boot()

    def _pause(self, domain):
        domain.paused = domain.paused or 'user'

    def _unpause(self, domain):
        domain.paused = None

    @stateful.precondition(lambda self: list(self.files('.json')))
    @stateful.rule()
    def delete(self):
        found, domain = self.cloud.database, self.cloud.domain
        found.deleted, found.task_state = True, None
        found.cleaned = self.up
        if self.up:
            domain.stop()
            domain.defined = False

    def _forget_unbegun(self):
        """Nothing tells of a request that died before it was noted.

        Its server's task state would; but the server is not on this host any
        more when nova-compute starts.
        """
        entries = ''
        for path in self.files('.json'):
            with open(path) as file:
                entries += file.read()
        for image in list(self.cloud.glance.images):
            if image not in entries:
                del self.cloud.glance.images[image]

    # The operator

    @stateful.precondition(lambda self: self._can_freeze(self.cloud.domain))
    @stateful.rule()
    def freeze_by_hand(self):
        self.cloud.domain.frozen = fake_cloud.OTHERS

    def _can_freeze(self, domain):
        """Not where a thaw of ours may still come: nobody could tell."""
        return (domain.settled and domain.number is not None and
                domain.frozen is None and domain.agent == 'connected' and
                not domain.paused)

    @stateful.precondition(lambda self: self.cloud.domain.number is not None
                           and self.cloud.domain.frozen == fake_cloud.OTHERS)
    @stateful.rule()
    def thaw_by_hand(self):
        self.cloud.domain.frozen = None

    @stateful.precondition(lambda self: self.cloud.domain.defined and
                           self.cloud.domain.number is None)
    @stateful.rule()
    def start_by_hand(self):
        self._restore(self.cloud.domain)

    @stateful.precondition(lambda self: self.cloud.domain.number is not None
                           and not self.cloud.domain.backup and
                           not self.cloud.domain.copy)
    @stateful.rule()
    def save_by_hand(self):
        self.cloud.domain.save(fake_cloud.OTHERS)

    @stateful.rule()
    def agent(self):
        domain = self.cloud.domain
        domain.agent = ('connected' if domain.agent != 'connected'
                        else 'disconnected')

    @stateful.precondition(lambda self: self.cloud.glance.images)
    @stateful.rule()
    def delete_image(self):
        self.cloud.glance.images.clear()

    @stateful.rule(which=strategies.integers(0, 2))
    def service_goes_and_comes(self, which):
        service = self.services()[which]
        service.away = not service.away

    # Evacuation, of a host that is down

    @stateful.precondition(lambda self: not self.up and
                           list(self.files('.json')) and
                           not self.cloud.database.deleted and
                           self.cloud.database.host == compute_host.HOST and
                           not self.cloud.database.evacuated)
    @stateful.rule()
    def evacuate(self):
        self._forget_unbegun()
        self.cloud.database.migrations.append(fake_cloud.Migration())
        self.cloud.database.task_state = 'rebuilding'

    @stateful.precondition(lambda self: self._migrating())
    @stateful.rule(works=strategies.booleans())
    def end_evacuation(self, works):
        found = self.cloud.database
        migration, self.action = self._migrating(), None
        found.task_state = None
        migration.status = 'done' if works else 'failed'
        if works:
            found.host = fake_cloud.OTHER
        else:
            found.vm_state = 'error'

    def _migrating(self):
        return next((one for one in self.cloud.database.migrations
                     if one.status in ('accepted', 'pre-migrating')), None)

    @stateful.precondition(lambda self: not self.may_snapshot() and self.up
                           and self.action is None)
    @stateful.rule()
    def begin_anew(self):
        """With another server: this one is gone, or of no more use."""
        self.all_answer_and_nothing_is_left()
        found, domain = self.cloud.database, self.cloud.domain
        found.deleted, found.host, found.migrations = (
            False, compute_host.HOST, [])
        found.vm_state, found.task_state = 'active', None
        domain.stop()
        domain.forget_memory()
        domain.boot()
        domain.defined = True

    # What holds

    @stateful.invariant()
    def nothing_is_harmed(self):
        assert self.cloud.violations == []

    def all_answer_and_nothing_is_left(self):
        for service in self.services():
            service.away = False
        self.cloud.domain.agent = 'connected'
        if self._migrating():
            self.end_evacuation(True)
        if not self.up:
            self.restart(None, None)
        if self.action is not None:
            self.end_action()
        # Again, as nova-compute does: a guest that one entry leaves paused
        # cannot be thawed for another.
        for _ in range(2):
            self.compute._undo_abandoned()
        self.settle()
        self._require_nothing_left()

    def _require_nothing_left(self):
        domain, found = self.cloud.domain, self.cloud.database
        assert list(self._left_entries()) == []
        assert not os.path.isdir(self.scratch) or not os.listdir(self.scratch)
        assert self.cloud.glance.hidden or [
            one['status'] for one in self.cloud.glance.images.values()
            if one['status'] != 'active'] == []
        assert domain.backup is None and domain.copy is None
        if not self.idle() or found.vm_state != 'active':
            return
        assert domain.saved != fake_cloud.OURS
        assert domain.number is None or domain.devices
        assert domain.number is None or domain.frozen != fake_cloud.OURS
        assert domain.paused != 'io'

    def _left_entries(self):
        for path in self.files('.json'):
            with open(path) as file:
                entry = json.load(file)
            # Nobody knows what became of an image that nobody shows us.
            hidden = self.cloud.glance.hidden and not (
                entry['visible'] or
                entry['image'] in self.cloud.glance.deleted)
            # A freeze waits in the memory that somebody has saved, or that a
            # snapshot has and Nova does not want to run.
            saved = self.is_noted_as_saved() and (
                self.cloud.domain.saved == fake_cloud.OTHERS or
                self.cloud.domain.saved == fake_cloud.OURS and
                self.cloud.database.vm_state == 'error')
            if not hidden and not saved:
                yield path


Recovery.TestCase.settings = hypothesis.settings(
    max_examples=int(os.environ.get('MODEL_EXAMPLES', EXAMPLES)),
    # The same ones each time, but where somebody looks for more.
    derandomize='MODEL_EXAMPLES' not in os.environ,
    stateful_step_count=25, deadline=None,
    suppress_health_check=list(hypothesis.HealthCheck))
TestRecovery = Recovery.TestCase
TestRecovery.__test__ = True
