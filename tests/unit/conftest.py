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

"""Unit tests need nothing but Python: no libvirt, no QEMU, no root."""

import sys
import types

import pytest

from nova_snapdriver.transfer import hashes


class Error(Exception):
    """A libvirtError: `err` begins with the code and the domain."""

    err = None

    def get_error_code(self):
        return self.err and self.err[0]

    def get_error_domain(self):
        return self.err and self.err[1]


class Domain:
    """What mocks of a virDomain are made from."""

    def name(self):
        pass

    def isActive(self):
        pass

    def state(self, flags=0):
        pass


# Of libvirt's headers.
CONSTANTS = {
    'VIR_DOMAIN_AGENT_RESPONSE_TIMEOUT_BLOCK': -2,
    'VIR_DOMAIN_BLOCK_COPY_REUSE_EXT': 2,
    'VIR_DOMAIN_BLOCK_COPY_SHALLOW': 1,
    'VIR_DOMAIN_BLOCK_COPY_TRANSIENT_JOB': 4,
    'VIR_DOMAIN_BLOCK_JOB_CANCELED': 2,
    'VIR_DOMAIN_BLOCK_JOB_FAILED': 1,
    'VIR_DOMAIN_BLOCK_JOB_READY': 3,
    'VIR_DOMAIN_EVENT_ID_BLOCK_JOB_2': 16,
    'VIR_DOMAIN_JOB_NONE': 0,
    'VIR_DOMAIN_JOB_OPERATION_SAVE': 2,
    'VIR_DOMAIN_JOB_UNBOUNDED': 2,
    'VIR_DOMAIN_PAUSED': 3,
    'VIR_DOMAIN_PAUSED_IOERROR': 5,
    'VIR_DOMAIN_PAUSED_USER': 1,
    'VIR_DOMAIN_RUNNING': 1,
    'VIR_DOMAIN_SHUTOFF': 5,
    'VIR_ERR_AGENT_UNRESPONSIVE': 86,
    'VIR_ERR_INTERNAL_ERROR': 1,
    'VIR_ERR_INVALID_CONN': 6,
    'VIR_ERR_NO_DOMAIN': 42,
    'VIR_ERR_NO_DOMAIN_BACKUP': 104,
    'VIR_ERR_OPERATION_INVALID': 55,
    'VIR_ERR_SYSTEM_ERROR': 38,
    'VIR_FROM_NONE': 0,
    'VIR_FROM_QEMU': 10,
    'VIR_FROM_REMOTE': 13,
    'VIR_FROM_RPC': 7,
}

try:
    import libvirt  # noqa: F401
except ImportError:
    # What is needed to import the driver, and to tell errors apart: a unit
    # test never calls libvirt. Nova's own fake of it would bring eventlet with
    # it, which replaces what the stream, that never runs under eventlet, is
    # made of.
    libvirt = types.ModuleType('libvirt')
    libvirt.libvirtError = Error
    libvirt.virDomain = Domain
    vars(libvirt).update(CONSTANTS)
    sys.modules['libvirt'] = libvirt


@pytest.fixture(autouse=True)
def nothing_learned(monkeypatch):
    """What one test has verified is nothing that another one knows."""
    monkeypatch.setattr(hashes, '_learned', None)
