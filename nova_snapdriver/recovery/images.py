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

"""Delete the images of abandoned snapshots, as the user of [service_user].

After a crash the request and its user's token are gone. What Glance shows to
that user depends on its roles: with the role "service" alone, which is what
Kolla-Ansible gives it, Glance answers 404 for a private image of a tenant.
"Not found" then says nothing.
"""

from collections.abc import Callable
import datetime
from typing import Any

from glanceclient import exc as glance_exc
from keystoneauth1 import exceptions as ksa_exc
from keystoneauth1 import loading
import nova.conf
from nova import context as nova_context
from nova import exception as nova_exception
from nova.image import glance
from oslo_log import log as logging

from nova_snapdriver import compat
from nova_snapdriver import exception
from nova_snapdriver import journal
from nova_snapdriver import plan
from nova_snapdriver.transfer import verify

LOG = logging.getLogger(__name__)

_GROUP = 'service_user'
# The paths on which this driver sends the image and verifies it. Of a direct
# one Glance has a copy in its own store, and Nova's own driver verifies none.
_SENT = frozenset((plan.Path.LIVE, plan.Path.MIRROR, plan.Path.COLD))
# What Nova calls them: those of a shelve are snapshots.
_TYPES = frozenset(('snapshot', 'backup'))


def unbegun(instance_uuid: str, before: datetime.datetime | None = None
            ) -> list[str]:
    """The images of an instance's snapshots and backups without data.

    :param before: those alone that were made before this time
    :raises nova.exception.NovaException: they cannot be seen
    """
    found = glance.API().get_all(service_context(), filters={
        'instance_uuid': instance_uuid})
    return [str(image['id']) for image in found
            if _has_no_data(image) and
            image['properties'].get('image_type') in _TYPES and
            (before is None or image['created_at'] < before)]


def delete_unbegun(image_id: str, instance_uuid: str) -> bool:
    """Delete an image that has no data, if it is a snapshot of that instance.

    See :func:`delete_unfinished`.
    """
    return _delete(image_id, instance_uuid, _has_no_data)


def delete_unfinished(record: journal.Record) -> bool:
    """Delete an abandoned image, if it is a snapshot of its instance.

    Only if it has no data yet or has not got what was sent: nobody has
    verified it. What arrived whole stays.

    :returns: whether it was deleted
    :raises nova.exception.NovaException: it cannot be seen or deleted
    """
    def unfinished(found: dict[str, Any]) -> bool:
        unverified = (found['status'] == 'active' and
                      record.planned.path in _SENT and
                      not verify.arrived(found, record.whole))
        return unverified or _has_no_data(found)

    return _delete(record.entry.image, record.entry.instance, unfinished,
                   record.entry.visible)


def _has_no_data(found: dict[str, Any]) -> bool:
    return found['status'] in ('queued', 'saving')


def _delete(image_id: str, instance_uuid: str,
            wanted: Callable[[dict[str, Any]], bool],
            visible: bool = True) -> bool:
    try:
        context = service_context()
        api = glance.API()
        found = api.get(context, image_id)
        if (found['properties'].get('instance_uuid') != instance_uuid or
                not wanted(found)):
            return False
        api.delete(context, image_id)
    except nova_exception.ImageNotFound:
        _require_visible(image_id, visible)
        return False
    except (ksa_exc.ClientException, glance_exc.ClientException,
            nova_exception.NovaException) as ex:
        raise exception.UploadFailed(
            reason='unfinished image %s is left, delete it by hand: %s' %
                   (image_id, ex)) from ex
    return True


def exists(entry: journal.Entry) -> bool:
    """Whether there is the image of a snapshot.

    :raises nova.exception.NovaException: it cannot be seen
    """
    try:
        glance.API().get(service_context(), entry.image)
    except nova_exception.ImageNotFound:
        _require_visible(entry.image, entry.visible)
        return False
    return True


def _require_visible(image_id: str, visible: bool) -> None:
    """See that "not found" says that an image is gone.

    Glance may just have been away when it was looked for at the beginning.
    """
    if not visible and missing_role() is not None:
        raise exception.ImageHidden(image=image_id)


def is_visible(image_id: str) -> bool:
    """Whether Glance shows [service_user] an image that is there.

    Never raises: an image that cannot be asked for is not visible.
    """
    try:
        glance.API().get(service_context(), image_id)
    except Exception as ex:
        LOG.debug('Image %(image)s is not shown to [service_user]: %(error)s',
                  {'image': image_id, 'error': ex})
        return False
    return True


def missing_role() -> str | None:
    """What [service_user] lacks for a recovery, in words; none if nothing.

    :raises Exception: Keystone does not answer
    """
    auth = compat.service_auth_plugin(_GROUP)
    if auth is None:
        return '[service_user] in nova.conf has no credentials'
    session = loading.load_session_from_conf_options(
        nova.conf.CONF, _GROUP, auth=auth)
    if 'admin' in auth.get_access(session).role_names:
        return None
    return ('[service_user] has not the role admin, and Glance by default '
            'shows private images to no other service')


def service_context() -> Any:
    """A context with nova-compute's own token: no user is there any more."""
    auth = compat.service_auth_plugin(_GROUP)
    if auth is None:
        raise exception.UploadFailed(
            reason='[service_user] in nova.conf has no credentials')
    return nova_context.RequestContext(user_auth_plugin=auth, is_admin=True,
                                       overwrite=False)
