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

"""Choose which of Glance's stores takes the image."""

from collections.abc import Callable
from typing import Any

from nova.image import glance
from oslo_log import log as logging

from nova_snapdriver import exception

LOG = logging.getLogger(__name__)

#: In place of a name: the store of the image that the server was made from.
BASE = 'base'


def choose(wanted: str, context: Any,
           base: Callable[[], dict[str, Any]]) -> str | None:
    """The store for an image; None for Glance's default.

    :param wanted: [snapdriver] store
    :param context: the user's request context
    :param base: gets the image that the server was made from, as Nova's image
        API gives it. It may raise: that image may be deleted.
    :raises StoreUnknown: Glance has no store of this name
    :raises StoresHidden: Glance does not say which it has
    """
    if not wanted:
        return None
    known = writable(context)
    if wanted == BASE:
        return _of_base(base, known)
    if wanted not in known:
        raise exception.StoreUnknown(store=wanted,
                                     known=', '.join(known) or 'none')
    return wanted


def writable(context: Any) -> list[str]:
    """The names of the stores that Glance can upload into.

    :raises StoresHidden: Glance does not say
    """
    try:
        # Glance answers 404 where it has a single store, without a name.
        found = glance.GlanceClientWrapper(context).call(
            context, 2, 'get_stores_info')
        return [str(store['id']) for store in found['stores']
                if store.get('read-only') != 'true']
    except Exception as ex:
        raise exception.StoresHidden(reason=str(ex) or repr(ex)) from ex


def of(image: dict[str, Any]) -> list[str]:
    """The names of the stores that hold an image.

    :param image: as Nova's image API gives it
    """
    names = str(image['properties'].get('stores') or '')
    return [name.strip() for name in names.split(',') if name.strip()]


def _of_base(base: Callable[[], dict[str, Any]],
             known: list[str]) -> str | None:
    try:
        found = of(base())
    except Exception as ex:
        LOG.warning('The image goes into Glance\'s default store: the image '
                    'that the server was made from is not to be seen: %s', ex)
        return None
    fitting = [name for name in found if name in known]
    if not fitting:
        LOG.warning('The image goes into Glance\'s default store: the image '
                    'that the server was made from is in %s, and uploads go '
                    'to %s', ', '.join(found) or 'no store', ', '.join(known))
        return None
    return fitting[0]
