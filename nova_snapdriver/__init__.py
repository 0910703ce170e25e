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

"""Snapshots of Nova's instances: a point in time, streamed in one pass.

A capture ends in an NBD export of a disk at one point in time, a process
streams an image of it, a destination takes that. Here the disk is a raw file
that no QEMU writes, and the destination another file::

    >>> from nova_snapdriver.capture import server
    >>> from nova_snapdriver.capture import workspace
    >>> from nova_snapdriver import imagebackend
    >>> from nova_snapdriver.transfer import body
    >>> from nova_snapdriver.transfer import process

    >>> disk = imagebackend.Source('file', 'raw', path)
    >>> place = workspace.locate(scratch_directory)
    >>> with (workspace.private(place, None),
    ...       server.serve(place, (disk,), 'vda') as export):
    ...     request = process.Request(export, 'qcow2', 'sha256')
    ...     with body.ImageBody(request) as image, open(target, 'wb') as out:
    ...         out.writelines(image)

The driver does this with a guest and Glance: it captures with
:func:`nova_snapdriver.capture.live.capture` or one of its neighbours, and
:func:`nova_snapdriver.transfer.send.send` streams into a
:class:`nova_snapdriver.transfer.image.Image`.
"""
