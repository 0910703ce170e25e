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

"""Errors of this driver, one class for each case that callers distinguish.

Where Nova's manager expects exceptions of its own (``InstanceNotFound``,
``ImageNotFound``, …), the driver raises those. The ones here are subclasses of
Nova's base class, so that the tenant sees their message in ``openstack server
event show`` and not just "unexpected".
"""

from nova import exception


class SnapdriverError(exception.NovaException):
    """Base of all errors of this driver."""

    msg_fmt = 'Snapshot failed: %(reason)s'


class DirectoryUnusable(SnapdriverError):
    """The scratch directory cannot be used."""

    msg_fmt = ('Snapshot failed before the guest was touched: %(reason)s. '
               'Set [snapdriver] scratch_directory to a directory that both '
               'nova-compute and QEMU can use.')


class JournalUnusable(SnapdriverError):
    """The journal cannot be written, or one of its entries is invalid."""

    msg_fmt = 'The journal in [snapdriver] journal_directory: %(reason)s'


class DiskUnusable(SnapdriverError):
    """The domain's XML does not describe a root disk that can be read."""

    msg_fmt = 'Snapshot failed before the guest was touched: %(reason)s'


class QuiesceFailed(SnapdriverError):
    """os_require_quiesce is set and the guest could not be frozen."""

    msg_fmt = ('Snapshot failed: the image property os_require_quiesce is '
               'set and the guest could not be quiesced: %(reason)s')


class ThawFailed(SnapdriverError):
    """The guest was frozen, and its agent does not thaw it."""

    msg_fmt = ('The guest may still be frozen, its agent does not answer: '
               '%(reason)s. Run "virsh domfsthaw %(domain)s" on its host.')


class ThawUnsupported(ThawFailed):
    """The guest may be frozen, and its agent has no command to thaw it."""

    msg_fmt = ('The guest may still be frozen, its agent has no thaw: '
               '%(reason)s. Allow guest-fsfreeze-thaw in the configuration of '
               'its agent, and run "virsh domfsthaw %(domain)s" on its host.')


class ResumeFailed(SnapdriverError):
    """The guest was suspended for the snapshot, and cannot be resumed."""

    msg_fmt = ('The guest is suspended, its memory is saved, and it does not '
               'start again: %(reason)s. Run "virsh start %(domain)s" on its '
               'host, or "nova-snapdriver recover". A start or a hard reboot '
               'by Nova would discard the memory.')


class DevicesMissing(SnapdriverError):
    """The guest was resumed, but lacks passed-through devices."""

    msg_fmt = ('The guest runs, but not all of its passed-through devices '
               'could be attached again: %(reason)s. A hard reboot brings '
               'them back.')


class CaptureFailed(SnapdriverError):
    """Libvirt or QEMU refused to capture the disk."""

    msg_fmt = 'Snapshot failed, the disk could not be captured: %(reason)s'


class ScratchExhausted(SnapdriverError):
    """The scratch directory lacks space, or a limit was reached."""

    msg_fmt = ('Snapshot failed, the guest was not harmed: %(reason)s. Free '
               'space in [snapdriver] scratch_directory, move it, take the '
               'snapshot when the guest writes less, or change the option.')


class ServerBusy(SnapdriverError):
    """Nova is at work with the server: what is left to do waits for that."""

    msg_fmt = 'Nova is at work with the server: %(reason)s'


class ImageHidden(SnapdriverError):
    """Glance shows no such image, and might not show one that is there."""

    msg_fmt = ('Glance shows no image %(image)s to [service_user] in '
               'nova.conf. It is gone, or that user may not see it: give it '
               'the role admin in its project, or delete the image by hand '
               'and then the entry in [snapdriver] journal_directory.')


class StoresHidden(SnapdriverError):
    """Glance does not say which stores it has."""

    msg_fmt = ('Snapshot failed, the guest was not touched: [snapdriver] '
               'store in nova.conf is set, and Glance does not say which '
               'stores it has: %(reason)s. A Glance with a single store, '
               'without enabled_backends in glance-api.conf, has none to '
               'choose.')


class StoreUnknown(SnapdriverError):
    """Glance has no store of the configured name."""

    msg_fmt = ('Snapshot failed, the guest was not touched: [snapdriver] '
               'store = %(store)s in nova.conf is no store that Glance can '
               'upload into. It has: %(known)s.')


class DirectRefused(SnapdriverError):
    """Ceph or Glance refused to copy; the disk can still be read."""

    msg_fmt = '%(reason)s'


class StreamFailed(SnapdriverError):
    """The stream process failed; the image is incomplete."""

    msg_fmt = 'Snapshot failed while the disk was read: %(reason)s'


class Outgrown(StreamFailed):
    """The image needs more room than was predicted.

    :param place: of its tables, in clusters, that the next attempt may need
    """

    def __init__(self, place: int, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.place = place


class EndedEarly(StreamFailed):
    """The disk has to be read again, but its backup job was ended early."""

    msg_fmt = ('Snapshot failed, the guest was not harmed: the disk would '
               'have to be read once more (a warning in the log says why: the '
               'upload broke off, or Glance uses another hash than it did '
               'for the images before), but its backup job was ended '
               'before the upload, as the guest overwrote so much. Take the '
               'snapshot again; with [snapdriver] read_ahead_limit = 0 no job '
               'ends early.')


class UploadFailed(SnapdriverError):
    """The upload to Glance failed."""

    msg_fmt = 'Snapshot failed while the image was uploaded: %(reason)s'


class ImageRefused(UploadFailed):
    """Glance would refuse the image; it was not sent."""

    msg_fmt = ('Snapshot failed before the upload: %(reason)s. With [libvirt] '
               'snapshot_image_format = qcow2 in nova.conf, the disk can be '
               'taken as it is; or overwrite its first sector in the guest.')


class Cancelled(SnapdriverError):
    """The server or the image is gone, or nova-compute is stopping."""

    msg_fmt = 'Snapshot given up: %(reason)s'


class VerifyFailed(SnapdriverError):
    """Glance stored something else than was sent; the image is deleted."""

    msg_fmt = 'Snapshot failed, Glance does not hold what was sent: %(reason)s'
