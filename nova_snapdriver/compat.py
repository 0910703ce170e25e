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

"""Differences between the supported releases of Nova, 31 to 34."""

from collections.abc import Callable
import functools
from typing import Any

from keystoneauth1 import loading
import nova.conf
from nova import service_auth
from nova import utils
from nova.virt.libvirt import host


def native_thread(function: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a function so that it runs in a native thread under eventlet."""
    wrap: Callable[..., Callable[..., Any]] | None = getattr(
        utils, 'tpool_wrap', None)
    if wrap is not None:        # Nova 33 and later
        return wrap(function)
    threading = getattr(utils, 'concurrency_mode_threading', lambda: False)
    if threading():             # Nova 32; nova-compute 31 is always eventlet
        return function
    return functools.partial(host.tpool.execute, function)


def service_auth_plugin(group: str) -> Any:
    """The credentials in a group of nova.conf; ``None`` without any."""
    get = getattr(service_auth, 'get_service_auth_plugin', None)
    if get is not None:         # Nova 33 and later
        return get(group)
    return loading.load_auth_from_conf_options(nova.conf.CONF, group)


def shutdown_event(virtapi: Any) -> Any:
    """What is set once nova-compute is told to stop; none before Nova 34.

    :param virtapi: of Nova's driver
    """
    manager = getattr(virtapi, '_compute', None)
    return getattr(manager, '_shutdown_in_progress', None)


def shutdown_seconds() -> float:
    """How long Nova 34 then waits for tasks before it ends them."""
    whole = float(nova.conf.CONF.manager_shutdown_timeout)
    return whole - min(20, whole)
