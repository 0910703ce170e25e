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

"""What can go wrong, one class for each case that a caller treats apart.

At the driver's edge Nova's own exceptions are raised where Nova's manager
expects them (``InstanceNotFound``, ``ImageNotFound``, …); these are the rest.
They are Nova exceptions too, so that the tenant sees the message in
``openstack server show`` and not just "unexpected".
"""

from nova import exception


class SnapdriverError(exception.NovaException):
    """Base of all errors of this driver."""

    msg_fmt = 'Snapshot failed: %(reason)s'


class DirectoryUnusable(SnapdriverError):
    """The scratch directory cannot serve for this snapshot."""

    msg_fmt = ('Snapshot failed before the guest was touched: %(reason)s. '
               'Set [snapdriver] scratch_directory to a directory that both '
               'nova-compute and QEMU can use.')


class JournalUnusable(SnapdriverError):
    """The journal cannot be written, or has an entry that makes no sense."""

    msg_fmt = 'The journal in [snapdriver] journal_directory: %(reason)s'


class DiskUnusable(SnapdriverError):
    """The domain's XML does not describe a root disk that can be read."""

    msg_fmt = ('Snapshot failed before the guest was touched: %(reason)s')


class QuiesceFailed(SnapdriverError):
    """os_require_quiesce is set and the guest could not be frozen."""

    msg_fmt = ('Snapshot failed: the image property os_require_quiesce is '
               'set and the guest could not be quiesced: %(reason)s')


class ThawFailed(SnapdriverError):
    """The guest was frozen and does not answer to the thaw."""

    msg_fmt = ('The guest may still be frozen, its agent does not answer: '
               '%(reason)s. Run "virsh domfsthaw %(domain)s" on its host.')


class ResumeFailed(SnapdriverError):
    """The guest was suspended for the snapshot and does not start again."""

    msg_fmt = ('The guest is suspended, its memory is saved, and it does not '
               'start again: %(reason)s. Run "virsh start %(domain)s" on its '
               'host, or "nova-snapdriver recover". A start or a hard reboot '
               'by Nova would discard the memory.')


class DevicesMissing(SnapdriverError):
    """The guest runs again, without devices of the host that it had."""

    msg_fmt = ('The guest runs, but not all devices of its host could be '
               'attached again: %(reason)s. A hard reboot brings them back.')


class CaptureFailed(SnapdriverError):
    """Libvirt or QEMU refused the point-in-time view."""

    msg_fmt = 'Snapshot failed, the disk could not be captured: %(reason)s'


class ScratchExhausted(SnapdriverError):
    """No room, or not as much as is allowed, for what the guest overwrites."""

    msg_fmt = ('Snapshot failed, the guest was not harmed: %(reason)s. Free '
               'space in, or move, [snapdriver] scratch_directory, take the '
               'snapshot when the guest writes less, or change that option.')


class ServerBusy(SnapdriverError):
    """Nova is at work with the server: what is left to do waits for that."""

    msg_fmt = 'Nova is at work with the server: %(reason)s'


class ImageHidden(SnapdriverError):
    """Glance shows no such image, and might not show one that is there."""

    msg_fmt = ('Glance shows no image %(image)s to [service_user] in '
               'nova.conf. It is gone, or that user may not see it: give it '
               'the role admin in its project, or delete the image by hand '
               'and then the entry in [snapdriver] journal_directory.')


class DirectRefused(SnapdriverError):
    """Ceph or Glance refused a direct snapshot; the disk can still be read."""

    msg_fmt = '%(reason)s'


class StreamFailed(SnapdriverError):
    """The stream process failed: the image is not whole."""

    msg_fmt = 'Snapshot failed while the disk was read: %(reason)s'


class EndedEarly(StreamFailed):
    """The disk is wanted once more, and was let go for the guest's sake."""

    msg_fmt = ('Snapshot failed, the guest was not harmed: the disk would '
               'have to be read once more (the log has a warning that says '
               'why: an upload that broke off, or another hash_algorithm than '
               'Glance has), but its backup job was ended before the upload, '
               'as the guest overwrote so much. Take the snapshot again; with '
               '[snapdriver] read_ahead_limit = 0 no job ends early.')


class UploadFailed(SnapdriverError):
    """Glance did not take the image."""

    msg_fmt = 'Snapshot failed while the image was uploaded: %(reason)s'


class Cancelled(SnapdriverError):
    """Nobody has a use for the image any more, or time for it."""

    msg_fmt = 'Snapshot given up: %(reason)s'


class VerifyFailed(SnapdriverError):
    """Glance has not got what was sent; the image is deleted."""

    msg_fmt = 'Snapshot failed, Glance does not hold what was sent: %(reason)s'
