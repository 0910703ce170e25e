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

"""Images that no user asks for any more, seen with the service's credentials.

After a crash the request and its user's token are gone: what is left is
deleted as the user of ``[service_user]``.
"""

from collections.abc import Callable
from typing import Any

from glanceclient import exc as glance_exc
from keystoneauth1 import exceptions as ksa_exc
from nova import context as nova_context
from nova import exception as nova_exception
from nova.image import glance

from nova_snapdriver import compat
from nova_snapdriver import exception
from nova_snapdriver import journal
from nova_snapdriver.transfer import verify


def unbegun(instance_uuid: str) -> list[str]:
    """The images of an instance's snapshots that have no data yet.

    :raises nova.exception.NovaException: they cannot be seen
    """
    found = glance.API().get_all(_service_context(), filters={
        'instance_uuid': instance_uuid, 'image_type': 'snapshot'})
    return [str(image['id']) for image in found if _has_no_data(image)]


def delete_unbegun(image_id: str, instance_uuid: str) -> bool:
    """Delete an image that has no data, if it is a snapshot of that instance.

    See :func:`delete_unfinished`.
    """
    return _delete(image_id, instance_uuid, _has_no_data)


def delete_unfinished(record: journal.Record) -> bool:
    """Delete an abandoned image with the credentials of [service_user].

    Only if it is a snapshot of that instance, and has no data yet or has not
    got what was sent: nobody has verified it. What arrived whole stays, and so
    does what is somebody else's.

    :returns: whether it was deleted
    :raises nova.exception.NovaException: it cannot be seen or deleted
    """
    def unfinished(found: dict[str, Any]) -> bool:
        # One that refers to a copy in Glance's store was never sent.
        unverified = (found['status'] == 'active' and not record.entry.clone
                      and not verify.arrived(found, record.whole))
        return unverified or _has_no_data(found)

    return _delete(record.entry.image, record.entry.instance, unfinished)


def _has_no_data(found: dict[str, Any]) -> bool:
    return found['status'] in ('queued', 'saving')


def _delete(image_id: str, instance_uuid: str,
            wanted: Callable[[dict[str, Any]], bool]) -> bool:
    try:
        context = _service_context()
        api = glance.API()
        found = api.get(context, image_id)
        if (found['properties'].get('instance_uuid') != instance_uuid or
                not wanted(found)):
            return False
        api.delete(context, image_id)
    except nova_exception.ImageNotFound:
        return False
    except (ksa_exc.ClientException, glance_exc.ClientException,
            nova_exception.NovaException) as ex:
        raise exception.UploadFailed(
            reason='unfinished image %s is left, delete it by hand: %s' %
                   (image_id, ex)) from ex
    return True


def exists(image_id: str) -> bool:
    """Whether there is an image, seen with [service_user]'s credentials.

    :raises nova.exception.NovaException: it cannot be seen
    """
    try:
        glance.API().get(_service_context(), image_id)
    except nova_exception.ImageNotFound:
        return False
    return True


def _service_context() -> Any:
    """A context with nova-compute's own token: no user is there any more."""
    auth = compat.service_auth_plugin('service_user')
    if auth is None:
        raise exception.UploadFailed(
            reason='[service_user] in nova.conf has no credentials')
    return nova_context.RequestContext(user_auth_plugin=auth, is_admin=True,
                                       overwrite=False)
