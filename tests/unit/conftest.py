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

try:
    import libvirt  # noqa: F401
except ImportError:
    # What is needed to import the driver, and no more: a unit test never
    # calls libvirt. Nova's own fake of it would bring eventlet with it, which
    # replaces what the stream, that never runs under eventlet, is made of.
    libvirt = types.ModuleType('libvirt')
    libvirt.libvirtError = type('libvirtError', (Exception,), {})
    libvirt.VIR_ERR_NO_DOMAIN = 42
    sys.modules['libvirt'] = libvirt


@pytest.fixture(autouse=True)
def nothing_learned(monkeypatch):
    """What one test has verified is nothing that another one knows."""
    monkeypatch.setattr(hashes, '_learned', None)
