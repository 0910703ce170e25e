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
Nova's base class, each with two messages: the log has one for the operator,
and the tenant sees the other one in ``openstack server event show``.
"""

from nova import exception


class SnapdriverError(exception.NovaException):
    """Base of all errors of this driver.

    :cvar tenant: what Nova shows to the tenant, in at most 255 bytes
    """

    msg_fmt = 'Snapshot failed: %(reason)s'
    tenant = ('The snapshot failed and its image was deleted. Try '
              'again; if it fails again, ask the operator.')

    def format_message(self) -> str:
        """What Nova shows to the tenant: no path, no host, no option.

        Of what else fails in a driver, it shows the name of the exception.
        """
        return self.tenant


class DirectoryUnusable(SnapdriverError):
    """The scratch directory cannot be used."""

    msg_fmt = ('Snapshot failed before the guest was touched: %(reason)s. '
               'Set [snapdriver] scratch_directory to a directory that both '
               'nova-compute and QEMU can use.')
    tenant = ('The snapshot failed before it began: the compute host is'
              ' not set up for it. Ask the operator.')


class JournalUnusable(SnapdriverError):
    """The journal cannot be written, or one of its entries is invalid."""

    msg_fmt = 'The journal in [snapdriver] journal_directory: %(reason)s'
    tenant = ('The snapshot failed before it began: the compute host '
              'cannot make a note of it. Ask the operator.')


class DiskUnusable(SnapdriverError):
    """The domain's XML does not describe a root disk that can be read."""

    msg_fmt = 'Snapshot failed before the guest was touched: %(reason)s'
    tenant = ('The snapshot failed before it began: the disk of the '
              'server cannot be read. Ask the operator.')


class QuiesceFailed(SnapdriverError):
    """os_require_quiesce is set and the guest could not be frozen."""

    msg_fmt = ('Snapshot failed: the image property os_require_quiesce is '
               'set and the guest could not be quiesced: %(reason)s')
    tenant = ('The snapshot failed: its image property '
              'os_require_quiesce is set, and the guest agent of the '
              'server did not freeze the file systems. Check that qemu-'
              'guest-agent runs in the server.')


class ThawFailed(SnapdriverError):
    """The guest was frozen, and its agent does not thaw it."""

    msg_fmt = ('The guest may still be frozen, its agent does not answer: '
               '%(reason)s. Run "virsh domfsthaw %(domain)s" on its host.')
    tenant = ('The snapshot failed, and the file systems of the server '
              'may still be frozen: its guest agent does not answer. '
              'Ask the operator at once, or reboot the server hard.')


class ThawUnsupported(ThawFailed):
    """The guest may be frozen, and its agent has no command to thaw it."""

    msg_fmt = ('The guest may still be frozen, its agent has no thaw: '
               '%(reason)s. Allow guest-fsfreeze-thaw in the configuration of '
               'its agent, and run "virsh domfsthaw %(domain)s" on its host.')
    tenant = ('The snapshot failed, and the file systems of the server '
              'may still be frozen: its guest agent has no command to '
              'thaw them. Allow guest-fsfreeze-thaw in its '
              'configuration, and reboot the server hard.')


class ResumeFailed(SnapdriverError):
    """The guest was suspended for the snapshot, and cannot be resumed."""

    msg_fmt = ('The guest is suspended, its memory is saved, and it does not '
               'start again: %(reason)s. Run "virsh start %(domain)s" on its '
               'host, or "nova-snapdriver recover". A start or a hard reboot '
               'by Nova would discard the memory.')
    tenant = ('The server was suspended for the snapshot and does not '
              'start again; its memory is saved. Do not start or reboot'
              ' it, which would discard the memory: ask the operator.')


class DevicesMissing(SnapdriverError):
    """The guest was resumed, but lacks passed-through devices."""

    msg_fmt = ('The guest runs, but not all of its passed-through devices '
               'could be attached again: %(reason)s. A hard reboot brings '
               'them back.')
    tenant = ('The server runs, but lacks devices of its host after the'
              ' snapshot. A hard reboot brings them back.')


class CaptureFailed(SnapdriverError):
    """Libvirt or QEMU refused to capture the disk."""

    msg_fmt = 'Snapshot failed, the disk could not be captured: %(reason)s'
    tenant = ('The snapshot failed: the disk of the server could not be'
              ' captured. Try again when no other action is under way; '
              'if it fails again, ask the operator.')


class ScratchExhausted(SnapdriverError):
    """The scratch directory lacks space, or a limit was reached."""

    msg_fmt = ('Snapshot failed, the guest was not harmed: %(reason)s. Free '
               'space in [snapdriver] scratch_directory, move it, take the '
               'snapshot when the guest writes less, or change the option.')
    tenant = ('The snapshot failed and did the server no harm: the '
              'compute host lacks space for what the server overwrites '
              'meanwhile. Try again when it writes less, or ask the '
              'operator.')


class ServerBusy(SnapdriverError):
    """Nova is at work with the server: what is left to do waits for that."""

    msg_fmt = 'Nova is at work with the server: %(reason)s'
    tenant = ('The snapshot waits for another action on the server. Try'
              ' again when that is done.')


class ImageHidden(SnapdriverError):
    """Glance shows no such image, and might not show one that is there."""

    msg_fmt = ('Glance shows no image %(image)s to [service_user] in '
               'nova.conf. It is gone, or that user may not see it: give it '
               'the role admin in its project, or delete the image by hand '
               'and then the entry in [snapdriver] journal_directory.')
    tenant = ('What is left of a snapshot cannot be cleaned up. Ask the'
              ' operator.')


class StoresHidden(SnapdriverError):
    """Glance does not say which stores it has."""

    msg_fmt = ('Snapshot failed, the guest was not touched: [snapdriver] '
               'store in nova.conf is set, and Glance does not say which '
               'stores it has: %(reason)s. A Glance with a single store, '
               'without enabled_backends in glance-api.conf, has none to '
               'choose.')
    tenant = ('The snapshot failed before it began: no place for its '
              'image is set up. Ask the operator.')


class StoreUnknown(SnapdriverError):
    """Glance has no store of the configured name."""

    msg_fmt = ('Snapshot failed, the guest was not touched: [snapdriver] '
               'store = %(store)s in nova.conf is no store that Glance can '
               'upload into. It has: %(known)s.')
    tenant = ('The snapshot failed before it began: no place for its '
              'image is set up. Ask the operator.')


class DirectRefused(SnapdriverError):
    """Ceph or Glance refused to copy; the disk can still be read."""

    msg_fmt = '%(reason)s'
    tenant = ('The storage refused to copy the disk of the server. Try '
              'again; if it fails again, ask the operator.')


class StreamFailed(SnapdriverError):
    """The stream process failed; the image is incomplete."""

    msg_fmt = 'Snapshot failed while the disk was read: %(reason)s'
    tenant = ('The snapshot failed while the disk of the server was '
              'read. Try again; if it fails again, ask the operator.')


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
    tenant = ('The snapshot failed and did the server no harm: the '
              'upload of its image broke off, and could not begin again'
              ' as the server overwrote so much. Try again.')


class UploadFailed(SnapdriverError):
    """The upload to Glance failed."""

    msg_fmt = 'Snapshot failed while the image was uploaded: %(reason)s'
    tenant = ('The snapshot failed while its image was uploaded. Try '
              'again; if it fails again, ask the operator.')


class ImageRefused(UploadFailed):
    """Glance would refuse the image; it was not sent."""

    msg_fmt = ('Snapshot failed before the upload: %(reason)s. With [libvirt] '
               'snapshot_image_format = qcow2 in nova.conf, the disk can be '
               'taken as it is; or overwrite its first sector in the guest.')
    tenant = ('The snapshot failed before the upload: the image service'
              ' refuses what is in the first sector of the disk. '
              'Overwrite that in the server, or ask the operator.')


class Cancelled(SnapdriverError):
    """The server or the image is gone, or nova-compute is stopping."""

    msg_fmt = 'Snapshot given up: %(reason)s'
    tenant = ('The snapshot was given up: the server was stopped or '
              'restarted, or its compute host was, before the image was'
              ' complete. Try again.')


class VerifyFailed(SnapdriverError):
    """Glance stored something else than was sent; the image is deleted."""

    msg_fmt = 'Snapshot failed, Glance does not hold what was sent: %(reason)s'
    tenant = ('The snapshot failed: the image service stored something '
              'else than was sent, and the image was deleted. Try '
              'again, and tell the operator.')
