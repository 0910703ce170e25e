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

"""Why a snapshot that is being sent is of no use any more."""

import functools

from nova import exception as nova_exception
from oslo_log import log as logging

from nova_snapdriver.capture import export
from nova_snapdriver.capture import qemunbd
from nova_snapdriver.compute import progress
from nova_snapdriver.compute import running
from nova_snapdriver import database
from nova_snapdriver import exception
from nova_snapdriver import guest as snap_guest
from nova_snapdriver.transfer import cancel
from nova_snapdriver.transfer import image as snap_image

LOG = logging.getLogger(__name__)

# Seconds between two looks. What this process knows costs nothing; libvirt is
# asked where a job ends with its guest; the database and Glance answer for
# all hosts of a cloud.
_OWN_SECONDS = 0.5
_JOB_SECONDS = 2
_SERVER_SECONDS = 5
_IMAGE_SECONDS = 15


def early(snapshot: running.Snapshot) -> cancel.Watch:
    """Watch what a snapshot needs before it is captured."""
    return cancel.Watch([cancel.Cause(lambda: snapshot.cause, _OWN_SECONDS)])


def watch(snapshot: running.Snapshot, source: export.Export,
          guest: snap_guest.Guest, image: snap_image.Image,
          has_job: bool) -> cancel.Watch:
    """Watch what a snapshot needs, while it is sent.

    :param has_job: the export is a backup job's, which ends with the guest
    """
    causes = [
        cancel.Cause(lambda: snapshot.cause, _OWN_SECONDS),
        cancel.Cause(functools.partial(_server, snapshot),
                     _SERVER_SECONDS),
        cancel.Cause(functools.partial(_image, image), _IMAGE_SECONDS)]
    if has_job:
        causes.append(cancel.Cause(functools.partial(_job, guest, source),
                                   _JOB_SECONDS))
    return cancel.Watch(causes, functools.partial(qemunbd.is_gone, source))


def _server(snapshot: running.Snapshot) -> Exception | None:
    """The database says it, also of a deletion by another service."""
    if database.is_deleted(snapshot.uuid):
        lost: Exception = nova_exception.InstanceNotFound(
            instance_id=snapshot.uuid)
        return lost
    # As often as the server is looked at, its owner sees the progress.
    progress.show(snapshot)
    return None


def _image(image: snap_image.Image) -> Exception | None:
    if not image.deleted():
        return None
    lost: Exception = nova_exception.ImageNotFound(image_id=image.id)
    return lost


def _job(guest: snap_guest.Guest, source: export.Export) -> Exception | None:
    # The job first: a guest that stops takes it along.
    if guest.backup_socket() == source.socket:
        return None
    if source.ended_early:
        return None                     # by us: the disk has been read
    if not guest.exists():
        return exception.Cancelled(reason='the server was stopped')
    return exception.Cancelled(
        reason='the server was restarted, or its backup job was ended')
