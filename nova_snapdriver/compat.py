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

"""Differences between the supported releases of Nova, 31 to 34.

Each branch says with which release it can go.
"""

from typing import Any

from keystoneauth1 import loading
import nova.conf


def tpool() -> Any:
    """eventlet's module of native threads; ``None`` without eventlet.

    This and threadpool.py go with eventlet: not earlier than 2027.2, as Nova
    34 logs.
    """
    # Late, as it imports most of Nova, which "nova-snapdriver snapshot" does
    # without.
    from nova import utils
    threading = getattr(utils, 'concurrency_mode_threading', None)
    if threading is None:       # Nova 31 is always eventlet: goes with it
        return utils.tpool
    if threading():
        return None
    get = getattr(utils, 'get_eventlet', None)
    if get is None:             # goes with Nova 33
        return utils.tpool
    return get().tpool


def service_auth_plugin(group: str) -> Any:
    """The credentials in a group of nova.conf; ``None`` without any."""
    from nova import service_auth
    get = getattr(service_auth, 'get_service_auth_plugin', None)
    if get is None:             # goes with Nova 32
        return loading.load_auth_from_conf_options(nova.conf.CONF, group)
    return get(group)


def shutdown_event(virtapi: Any) -> Any:
    """What is set once nova-compute is told to stop; none before Nova 34.

    The defaults go with Nova 33.

    :param virtapi: of Nova's driver
    """
    manager = getattr(virtapi, '_compute', None)
    return getattr(manager, '_shutdown_in_progress', None)


def shutdown_seconds() -> float:
    """How long Nova 34 then waits for tasks before it ends them."""
    whole = float(nova.conf.CONF.manager_shutdown_timeout)
    return whole - min(20, whole)
