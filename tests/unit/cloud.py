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

"""A cloud of one server, for tests: its database, its libvirt, its Glance.

Each fails when it is told to. The server's guest is a fake of libvirt's
domain, with a memory of who has frozen, saved or paused it. What a process of
ours does to it is checked at once against what Nova's database says.
"""

import contextlib
import datetime
import itertools
import types
from unittest import mock

import libvirt
from nova.compute import vm_states
from nova import exception as nova_exception
import nova.objects
from nova.virt.libvirt import guest as nova_guest
import oslo_messaging

from nova_snapdriver.recovery import images
from tests.unit import journal_entry

nova.objects.register_all()

HOST, OTHER = journal_entry.HOST, 'compute-2'
UUID = journal_entry.ENTRY.instance

#: Who has frozen, saved or paused a guest.
OURS, OTHERS = 'snapshot', 'somebody else'


class Killed(BaseException):
    """The process is dead: it does nothing any more, not even clean up."""


class Process:
    """nova-compute, which dies at the n-th thing that it does."""

    def __init__(self):
        self.dead = False
        self.steps_left = None

    def step(self, *ignored):
        """:raises Killed: it is dead, or dies here"""
        if self.steps_left is not None:
            self.steps_left -= 1
            self.dead = self.dead or self.steps_left < 0
        if self.dead:
            raise Killed


class Service:
    """Something that answers, or not.

    :param error: makes what it fails with
    """

    def __init__(self, process, error):
        self._process = process
        self._error = error
        self.away = False
        #: Calls until one fails, or all do from then on; none for never.
        self.fails_after = self.leaves_after = None

    def ask(self):
        """To be called before anything that it does."""
        self._process.step()
        if self.leaves_after is not None:
            self.leaves_after -= 1
            self.away = self.away or self.leaves_after < 0
        if self.fails_after is not None:
            self.fails_after -= 1
            if self.fails_after < 0:
                self.fails_after = None
                raise self._error()
        if self.away:
            raise self._error()


def libvirt_error(code=libvirt.VIR_ERR_INTERNAL_ERROR, text='no answer'):
    found = libvirt.libvirtError(text)
    found.err = (code, libvirt.VIR_FROM_QEMU, text)
    return found


class Migration(types.SimpleNamespace):
    """An evacuation."""

    status = 'accepted'


class Database(Service):
    """Nova's, with one server."""

    def __init__(self, process):
        super().__init__(process, oslo_messaging.MessagingTimeout)
        self.host, self.vm_state, self.task_state = HOST, 'active', None
        self.deleted, self.cleaned = False, False
        self.progress = 0
        self.migrations = []

    def expects_guest(self, paused):
        """Whether the guest is to run (or to be there, paused) on HOST."""
        wanted = (vm_states.PAUSED,) if paused else ()
        return (not self.deleted and self.host == HOST and
                self.vm_state in (vm_states.ACTIVE, *wanted) and
                self.task_state in (None, 'image_snapshot_pending',
                                    'image_snapshot', 'image_backup',
                                    'image_pending_upload',
                                    'image_uploading') and
                not self.evacuated)

    @property
    def evacuated(self):
        return any(one.status in ('accepted', 'pre-migrating', 'done')
                   for one in self.migrations)

    def get(self, context, uuid, expected_attrs=None):
        self.ask()
        if self.deleted or uuid != UUID:
            raise nova_exception.InstanceNotFound(instance_id=uuid)
        return self._server()

    def _server(self):
        server = types.SimpleNamespace(
            uuid=UUID, host=self.host, vm_state=self.vm_state,
            task_state=self.task_state, progress=self.progress)
        server.save = lambda expected_task_state: self.save(
            server.task_state, expected_task_state, server.progress)
        return server

    def save(self, task_state, expected, progress=None):
        self.ask()
        if self.deleted:
            raise nova_exception.InstanceNotFound(instance_id=UUID)
        if self.task_state not in expected:
            raise nova_exception.UnexpectedTaskStateError(
                instance_uuid=UUID, expected=expected, actual=self.task_state)
        self.task_state = task_state
        if progress is not None:
            self.progress = progress

    def by_host(self, context, host, expected_attrs=None):
        self.ask()
        return [] if self.deleted or self.host != host else [self._server()]

    def by_filters(self, context, filters, **options):
        self.ask()
        assert context.read_deleted == 'yes'
        assert filters == {'host': HOST, 'deleted': True, 'cleaned': False,
                           'soft_deleted': False}
        gone = self.deleted and self.host == HOST and not self.cleaned
        return [self._server()] if gone else []

    def evacuations(self, context, filters):
        self.ask()
        assert filters['source_compute'] == HOST
        assert filters['migration_type'] == 'evacuation'
        return [one for one in self.migrations
                if filters['instance_uuid'] == UUID and
                one.status in filters['status']]


class Glance(Service):
    """Images by their IDs, each with whether a snapshot has verified it."""

    def __init__(self, process):
        super().__init__(process, lambda: nova_exception.
                         GlanceConnectionFailed(server='g', reason='away'))
        self.images = {}
        self.hidden = False             # from [service_user]
        self.deleted = set()            # by a process of ours
        self.violations = []

    def add(self, image_id):
        self.images[image_id] = {
            'id': image_id, 'status': 'queued', 'size': None,
            'os_hash_algo': 'sha512', 'os_hash_value': None,
            'created_at': datetime.datetime.now(datetime.UTC),
            'verified': False, 'properties': {
                'instance_uuid': UUID, 'image_type': 'snapshot'}}

    def get(self, context, image_id):
        self.ask()
        if image_id not in self.images or (self.hidden and context is None):
            raise nova_exception.ImageNotFound(image_id=image_id)
        return dict(self.images[image_id])

    def get_all(self, context, filters):
        self.ask()
        return [dict(one) for one in self.images.values()
                if not self.hidden and one['properties'].get(
                    'instance_uuid') == filters['instance_uuid']]

    def delete(self, context, image_id):
        found = self.get(context, image_id)
        if found['verified']:
            self.violations.append('a verified image is deleted')
        del self.images[image_id]
        self.deleted.add(image_id)


class Domain:
    """A fake of libvirt.virDomain, as the server's guest has it.

    :ivar number: of the run; none while it is shut off
    :ivar frozen: by whom; goes along with the saved memory
    :ivar paused: none, 'user' or 'io'
    :ivar saved: by whom its memory is saved
    :ivar devices: whether it has those of the host
    """

    def __init__(self, service, database):
        self._service = service
        self._database = database
        self._numbers = itertools.count(1)
        self.number = next(self._numbers)
        self.defined, self.saving, self.devices = True, False, True
        self.frozen = self.paused = self.saved = None
        self.agent, self.unsupported = 'connected', False
        self.agent_leaves_after = None
        self.backup = self.copy = self.events = None
        #: A snapshot has it as it was, whatever the database says; a
        #: recovery asks.
        self.recovering = True
        #: No process of ours has frozen it, and none has to thaw it.
        self.settled = True
        self.violations = []
        self.calls = []

    # What people, Nova and QEMU do

    def boot(self):
        """Start it from its memory, if that is saved."""
        if self.saved is None:
            self.frozen = self.paused = None
            self.devices = True
        self.saved, self.number = None, next(self._numbers)

    def stop(self):
        self.number = self.backup = self.copy = None
        self.saving = False
        if self.saved is None:
            self.frozen = self.paused = None

    def save(self, who):
        self.saved = who
        self.stop()

    def forget_memory(self):
        self.saved = self.frozen = self.paused = None

    # libvirt

    def _ask(self, name):
        self._service.ask()
        if self.agent_leaves_after is not None:
            self.agent_leaves_after -= 1
            if self.agent_leaves_after < 0:
                self.agent = 'disconnected'
        if not self.defined:
            raise libvirt_error(libvirt.VIR_ERR_NO_DOMAIN, 'no domain')
        self.calls.append(name)

    def _require_running(self):
        if self.number is None:
            raise libvirt_error(libvirt.VIR_ERR_OPERATION_INVALID,
                                'domain is not running')

    def name(self):
        return 'instance-1'

    def UUIDString(self):
        return UUID

    def isActive(self):
        self._ask('isActive')
        return int(self.number is not None)

    def state(self):
        self._ask('state')
        if self.number is None:
            return libvirt.VIR_DOMAIN_SHUTOFF, 0
        reasons = {'io': libvirt.VIR_DOMAIN_PAUSED_IOERROR,
                   'user': libvirt.VIR_DOMAIN_PAUSED_USER}
        if self.paused:
            return libvirt.VIR_DOMAIN_PAUSED, reasons[self.paused]
        return libvirt.VIR_DOMAIN_RUNNING, 0

    def XMLDesc(self, flags=0):
        self._ask('XMLDesc')
        number = '' if self.number is None else " id='%d'" % self.number
        mirror = self.copy and (
            "<mirror type='file' ready='yes'><source file='%s'/></mirror>" %
            self.copy)
        return ("<domain%s><devices><disk type='file'>%s<target dev='vda'/>"
                "</disk><channel type='unix'><target type='virtio' "
                "name='org.qemu.guest_agent.0' state='%s'/></channel>"
                "</devices></domain>" % (number, mirror or '', self.agent))

    def resume(self):
        self._ask('resume')
        self._require_running()
        if self.recovering and not self._database.expects_guest(paused=False):
            self.violations.append('resumed against the database: %s' %
                                   self._database.vm_state)
        self.paused = None

    def create(self):
        self._ask('create')
        if self.number is not None:
            raise libvirt_error(libvirt.VIR_ERR_OPERATION_INVALID,
                                'domain is already running')
        if self.recovering and not self._database.expects_guest(
                paused=self.paused is not None):
            self.violations.append('started against the database')
        self.boot()
        self._service.ask()             # dies, or answers nothing, after it

    def hasManagedSaveImage(self, flags=0):
        self._ask('hasManagedSaveImage')
        return int(self.saved is not None)

    def managedSave(self, flags=0):
        self._ask('managedSave')
        self._require_running()
        self.saving = True
        self._service.ask()
        self.save(OURS)
        self._service.ask()

    def attachDeviceFlags(self):
        self._ask('attachDeviceFlags')
        self._require_running()
        self.devices = True

    # The agent

    def agentSetResponseTimeout(self, seconds, flags=0):
        self._ask('agentSetResponseTimeout')
        self._require_agent()

    def _require_agent(self):
        self._require_running()
        if self.agent != 'connected' or self.paused:
            raise libvirt_error(libvirt.VIR_ERR_AGENT_UNRESPONSIVE,
                                'guest agent is not available')

    def _require_freeze(self):
        self._require_agent()
        if self.unsupported:
            raise libvirt_error(
                text='unable to execute QEMU agent command '
                "'guest-fsfreeze-thaw': Command guest-fsfreeze-thaw has been "
                'disabled')

    def fsFreeze(self):
        # Without an answer, nobody knows whether it is frozen.
        was, self.settled = self.settled, False
        self._ask('fsFreeze')
        self._require_freeze()
        if self.frozen is not None:
            self.settled = was
            raise libvirt_error(
                text='Command guest-fsfreeze-freeze has been disabled: the '
                'agent is in frozen state')
        self.frozen = OURS
        self._service.ask()
        return 1

    def fsThaw(self):
        self._ask('fsThaw')
        self._require_freeze()
        if self.settled:
            self.violations.append('thawed, and it was not ours to thaw: '
                                   'frozen by %s' % self.frozen)
        was, self.frozen = self.frozen, None
        return int(was is not None)

    # Jobs

    def jobInfo(self):
        self._ask('jobInfo')
        busy = self.backup is not None or self.saving
        return [libvirt.VIR_DOMAIN_JOB_UNBOUNDED if busy
                else libvirt.VIR_DOMAIN_JOB_NONE]

    def jobStats(self, flags=0):
        self._ask('jobStats')
        self._require_running()
        if not self.saving:
            return {}
        return {'type': libvirt.VIR_DOMAIN_JOB_UNBOUNDED,
                'operation': libvirt.VIR_DOMAIN_JOB_OPERATION_SAVE}

    def backupBegin(self, xml, checkpoint, flags):
        self._ask('backupBegin')
        self._require_running()
        if self.backup is not None:
            raise libvirt_error(text='another job runs')
        self.backup = xml.partition('socket="')[2].partition('"')[0]
        self._service.ask()

    def backupGetXMLDesc(self, flags):
        self._ask('backupGetXMLDesc')
        if self.backup is None:
            raise libvirt_error(libvirt.VIR_ERR_NO_DOMAIN_BACKUP, 'none')
        return "<domainbackup><server socket='%s'/></domainbackup>" % (
            self.backup)

    def abortJob(self):
        self._ask('abortJob')
        self.backup, self.saving = None, False

    def blockJobInfo(self, target, flags):
        self._ask('blockJobInfo')
        self._require_running()
        return {} if self.copy is None else {'cur': 1, 'end': 2}

    def blockCopy(self, target, xml, parameters, flags):
        self._ask('blockCopy')
        self._require_running()
        self.copy = xml.partition('<source file="')[2].partition('"')[0]
        self._service.ask()
        self._tell(libvirt.VIR_DOMAIN_BLOCK_JOB_READY)

    def blockJobAbort(self, target, flags):
        self._ask('blockJobAbort')
        if self.copy is None:
            raise libvirt_error(text='no block job')
        self.copy = None
        self._service.ask()
        self._tell(libvirt.VIR_DOMAIN_BLOCK_JOB_CANCELED)

    def _tell(self, status):
        if self.events is not None:
            self.events(None, None, 'vda', 0, status, None)

    def connect(self):
        self._ask('connect')
        return types.SimpleNamespace(
            domainEventRegisterAny=self._register,
            domainEventDeregisterAny=self._deregister)

    def _register(self, domain, kind, callback, opaque):
        self.events = callback
        return 1

    def _deregister(self, number):
        self.events = None


class Cloud:
    """All of it, as the driver sees it: :meth:`seen`."""

    def __init__(self):
        self.process = Process()
        self.database = Database(self.process)
        self.libvirt = Service(self.process, libvirt_error)
        self.glance = Glance(self.process)
        self.domain = Domain(self.libvirt, self.database)

    @property
    def violations(self):
        return [*self.domain.violations, *self.glance.violations]

    def get_guest(self, instance):
        """As Nova's Host does."""
        self.libvirt.ask()
        if not self.domain.defined:
            raise nova_exception.InstanceNotFound(instance_id=instance.uuid)
        return nova_guest.Guest(self.domain)

    def launch(self, uuid, guest):
        """As nova_snapdriver.compute.power does."""
        self.database.get(None, uuid)
        guest.start()
        return []

    def attach(self, uuid, guest):
        """As nova_snapdriver.compute.power does."""
        self.database.get(None, uuid)
        self.domain.attachDeviceFlags()
        return []

    @contextlib.contextmanager
    def seen(self):
        """Let Nova's objects and its image API be these."""
        with contextlib.ExitStack() as patches:
            for name, fake in (
                    ('nova.objects.Instance.get_by_uuid', self.database.get),
                    ('nova.objects.InstanceList.get_by_host',
                     self.database.by_host),
                    ('nova.objects.InstanceList.get_by_filters',
                     self.database.by_filters),
                    ('nova.objects.MigrationList.get_by_filters',
                     self.database.evacuations),
                    ('nova.image.glance.API', lambda: self.glance)):
                patches.enter_context(mock.patch(name, fake))
            patches.enter_context(mock.patch.object(
                images, 'service_context', lambda: None))
            patches.enter_context(mock.patch.object(
                images, 'missing_role',
                lambda: 'the role admin' if self.glance.hidden else None))
            patches.enter_context(mock.patch('time.sleep'))
            yield self
