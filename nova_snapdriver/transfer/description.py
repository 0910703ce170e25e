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

"""The metadata of an image, as a change of what Glance has.

The properties of this driver (snapdriver_path and so on) are a courtesy: a
Glance that lets nobody set them, or allows no more properties, gets the image
without them. A server inherits those of its image, and Nova's API gives them
to the images of the server, of which they may be false: they are replaced or
removed.
"""

from typing import Any

from nova_snapdriver.capture import direct
from nova_snapdriver.capture import export
from nova_snapdriver import exception
from nova_snapdriver import plan

#: The type of changes in a request.
JSON_PATCH = 'application/openstack-images-v2.1-json-patch'

LABEL_PREFIX = 'snapdriver_'

# What Glance answers to a property that is protected, or one too many.
LABEL_REFUSALS = frozenset((403, 413))


def labels(path: plan.Path,
           captured: export.Capture | direct.Copied) -> dict[str, Any]:
    """Return the properties that say how an image was made."""
    return {'snapdriver_path': str(path),
            'snapdriver_consistency': str(captured.consistency),
            'snapdriver_captured_at': captured.captured_at.isoformat(
                timespec='milliseconds')}


def last(conf: Any, path: plan.Path,
         captured: export.Capture | direct.Copied) -> dict[str, Any]:
    """Return the metadata that depend on the capture, if they are wanted."""
    if not conf.snapdriver.snapdriver_properties:
        return {}
    return {'properties': labels(path, captured)}


def changes(metadata: dict[str, Any],
            found: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the changes that metadata needs, as a JSON patch.

    "add" replaces a value, too. As in Nova, empty values are left out (an
    instance without kernel and ramdisk), and values are strings.

    :param metadata: attributes and, as ``properties``, more of them
    :param found: the image as Glance's API gives it
    """
    attributes = dict(metadata)
    attributes.update(attributes.pop('properties', {}))
    attributes.pop('status', None)      # Glance's to set
    added = [{'op': 'add', 'path': '/' + name, 'value': str(value)}
             for name, value in attributes.items()
             if value and found.get(name) != str(value)]
    return [*_removed(attributes, found), *added]


def _removed(attributes: dict[str, Any],
             found: dict[str, Any]) -> list[dict[str, Any]]:
    """Remove labels of another image."""
    return [{'op': 'remove', 'path': '/' + name} for name in found
            if name.startswith(LABEL_PREFIX) and name not in attributes]


def unlabelled(metadata: dict[str, Any]) -> dict[str, Any]:
    """Return metadata without the properties of this driver."""
    properties = {name: value
                  for name, value in metadata.get('properties', {}).items()
                  if not name.startswith(LABEL_PREFIX)}
    return dict(metadata, properties=properties)


def read(response: Any) -> dict[str, Any]:
    """The image that an answer of Glance describes.

    :raises UploadFailed: it describes none
    """
    try:
        found = response.json()
    except (ValueError, RecursionError) as ex:
        raise exception.UploadFailed(
            reason='Glance describes the image, but not in JSON: %s' %
                   ex) from ex
    if not isinstance(found, dict):
        raise exception.UploadFailed(
            reason='Glance describes the image as a %s' %
                   type(found).__name__)
    return found
