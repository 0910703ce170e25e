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

"""What Nova's database says of a server: the truth, where it answers.

The journal says what was begun, libvirt what is there. Whose the guest is now,
in which state it has to be, and whether the server still exists, only the
database knows.
"""

from collections.abc import Callable
import contextlib
import functools
from typing import Any

from nova.compute import task_states
from nova.compute import vm_states
from nova import context as nova_context
from nova import exception as nova_exception
from nova import objects
from nova.objects import fields
from oslo_log import log as logging

from nova_snapdriver import exception
from nova_snapdriver import waiting

LOG = logging.getLogger(__name__)

# What comes of a database or a message queue that is away, by name: it may be
# raised here, or by the conductor and named in a RemoteError. Whatever else is
# the matter, waiting does not mend it.
_AWAY = frozenset(('DBConnectionError', 'MessagingTimeout',
                   'MessageDeliveryFailure'))
# A restart of a database takes seconds, a failover a minute.
_WAIT_SECONDS = 120
# A host may have thousands that Nova could not clean up, over the years.
_DELETED_MOST = 100
_PAUSE_SECONDS = 1

#: Task states that only nova-compute sets while it takes a snapshot: when it
#: starts, nobody goes on with them. IMAGE_SNAPSHOT_PENDING, IMAGE_BACKUP and
#: SHELVING are not among them: the API sets those, and their requests may
#: still be in the queue.
BEGUN = frozenset((
    task_states.IMAGE_SNAPSHOT, task_states.IMAGE_PENDING_UPLOAD,
    task_states.IMAGE_UPLOADING, task_states.SHELVING_IMAGE_PENDING_UPLOAD,
    task_states.SHELVING_IMAGE_UPLOADING))
#: Those of them that Nova does not clear when it starts.
NOT_CLEARED = frozenset((
    task_states.SHELVING_IMAGE_PENDING_UPLOAD,
    task_states.SHELVING_IMAGE_UPLOADING))

_DELETING = frozenset((task_states.DELETING, task_states.SOFT_DELETING))
_DELETED = frozenset((vm_states.DELETED, vm_states.SOFT_DELETED))

# A guest is suspended for a snapshot only while its server is in one of
# these, and so it stays until Nova does something else with it. One that was
# paused is paused again: its saved memory says so.
_RUNS = frozenset((vm_states.ACTIVE, vm_states.PAUSED))
_SNAPSHOT = BEGUN | {None, task_states.IMAGE_SNAPSHOT_PENDING,
                     task_states.IMAGE_BACKUP}

# Of evacuations: the new host has taken the server over, or is about to, as
# nova.compute.manager's _destroy_evacuated_instances() has it.
_EVACUATED = ('accepted', 'pre-migrating', 'done')

#: What Nova needs of an instance to give it back its CPUs and devices.
DEVICES = ('flavor', 'info_cache', 'metadata', 'numa_topology', 'pci_devices',
           'pci_requests', 'system_metadata')

Snapshot = Callable[..., None]


def awaited(snapshot: Snapshot) -> Snapshot:
    """Delay the end of ``snapshot()`` until the database answers.

    Nova's manager notes that a server has no task any more, once. If it
    cannot, the server keeps its task until the next start of nova-compute, no
    action is allowed on it, and the image of a snapshot that went well is
    deleted.

    :param snapshot: :meth:`nova.virt.driver.ComputeDriver.snapshot`
    """
    @functools.wraps(snapshot)
    def wrapped(driver: Any, context: Any, instance: Any, *rest: Any,
                **named: Any) -> None:
        try:
            snapshot(driver, context, instance, *rest, **named)
        finally:
            _wait(instance)

    return wrapped


def find(uuid: str, *attributes: str) -> Any:
    """The instance as the database has it now.

    :param attributes: what to load beside the instance's own columns
    :raises nova.exception.InstanceNotFound: it is gone
    :raises Exception: the database does not answer
    """
    return objects.Instance.get_by_uuid(nova_context.get_admin_context(), uuid,
                                        expected_attrs=list(attributes))


def is_deleted(uuid: str) -> bool:
    """Whether a server is gone, or is being deleted.

    :raises Exception: the database does not answer
    """
    found = _find_or_none(uuid)
    return (found is None or found.task_state in _DELETING or
            found.vm_state in _DELETED)


def why_not_here(uuid: str, host: str) -> str | None:
    """Why a host must leave a guest alone; none if the server is its own.

    :param host: nova-compute's name
    :returns: in words, for good
    :raises Exception: the database does not answer
    """
    return _why_elsewhere(uuid, _find_or_none(uuid), host)


def why_not_running(uuid: str, host: str, paused: bool) -> str | None:
    """Why a guest must not be started; none if Nova expects it to run here.

    :param host: nova-compute's name
    :param paused: whether that of a paused server may be
    :returns: in words, for good: what Nova does with the server after that is
        no business of a snapshot
    :raises ServerBusy: Nova is at work with it: ask again later
    :raises Exception: the database does not answer
    """
    # Read once: one answer is of one moment.
    found = _find_or_none(uuid)
    reason = _why_elsewhere(uuid, found, host)
    if reason is not None:
        return reason
    if found.vm_state not in (_RUNS if paused else (vm_states.ACTIVE,)):
        return 'the server is %s' % found.vm_state
    if found.task_state in _DELETING:
        return 'the server is being deleted'
    if found.task_state not in _SNAPSHOT:
        raise exception.ServerBusy(reason='it is %s' % found.task_state)
    return None


def _why_elsewhere(uuid: str, found: Any, host: str) -> str | None:
    """:param found: the instance; None if it is gone"""
    if found is None:
        return 'the server is deleted'
    if found.host != host:
        return 'the server is on the host %s' % found.host
    if _is_evacuated(uuid, host):
        return 'the server is evacuated from this host'
    return None


def _find_or_none(uuid: str) -> Any:
    """The instance; None if it is gone."""
    try:
        return find(uuid)
    except nova_exception.InstanceNotFound:
        return None


def _is_evacuated(uuid: str, host: str) -> bool:
    """Whether another host has taken the server over, or is about to.

    Nova destroys what was evacuated from a host only after the driver was
    initialized.
    """
    context = nova_context.get_admin_context(read_deleted='yes')
    return bool(objects.MigrationList.get_by_filters(context, {
        'source_compute': host, 'instance_uuid': uuid,
        'status': list(_EVACUATED),
        'migration_type': fields.MigrationType.EVACUATION}))


def begun(host: str) -> list[Any]:
    """The instances of a host whose snapshots ended with nova-compute.

    For its start, before Nova clears the task states.

    :param host: nova-compute's name
    :raises Exception: the database does not answer
    """
    found = objects.InstanceList.get_by_host(
        nova_context.get_admin_context(), host, expected_attrs=[])
    return [one for one in found if one.task_state in BEGUN]


def deleted_meanwhile(host: str) -> list[Any]:
    """The instances of a host that were deleted while nova-compute was down.

    Nova has not cleaned up after them; the newest 100.

    :param host: nova-compute's name
    :raises Exception: the database does not answer
    """
    return list(objects.InstanceList.get_by_filters(
        nova_context.get_admin_context(read_deleted='yes'),
        {'host': host, 'deleted': True, 'soft_deleted': False,
         'cleaned': False},
        sort_key='deleted_at', sort_dir='desc', limit=_DELETED_MOST,
        expected_attrs=[]))


def clear_task(instance: Any) -> None:
    """Clear the task state of a snapshot that nobody goes on with.

    :raises nova.exception.UnexpectedTaskStateError: it has another by now
    """
    state, instance.task_state = instance.task_state, None
    instance.save(expected_task_state=[state])


def show_progress(uuid: str, host: str, percent: int) -> None:
    """Set what Nova's API shows as the progress of a server.

    Only that field is saved, and only while a host has the server in a
    snapshot: other tasks of Nova's have a progress of their own. 0 is set
    after the snapshot, too.

    :param host: nova-compute's name
    :raises Exception: the database does not answer
    """
    found = _find_or_none(uuid)
    states = BEGUN if percent else BEGUN | {None}
    if (found is None or found.host != host or found.progress == percent or
            found.task_state not in states):
        return
    found.progress = percent
    # It may have another task by now, or be gone: then it is not ours.
    with contextlib.suppress(nova_exception.UnexpectedTaskStateError,
                             nova_exception.InstanceNotFound):
        found.save(expected_task_state=[found.task_state])


def _wait(instance: Any) -> None:
    """Wait until the database answers, or for long enough."""
    away = _away(instance)
    if away is None:
        return
    LOG.warning('The end of the snapshot cannot be noted, waiting up to %d s '
                'for the database: %s', _WAIT_SECONDS, away, instance=instance)
    waiting.wait_until(lambda: _away(instance) is None, _WAIT_SECONDS,
                       _PAUSE_SECONDS)


def _away(instance: Any) -> Exception | None:
    """What says that the database does not answer; none if it does."""
    try:
        find(instance.uuid)
    except Exception as ex:
        if {type(ex).__name__, getattr(ex, 'exc_type', None)} & _AWAY:
            return ex
    return None
