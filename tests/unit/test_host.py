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

import logging
import os
import pathlib
import shutil
import tempfile
from unittest import mock

import pytest

from nova_snapdriver import host

WITH_BACKUP = ("<domainCapabilities><features><backup supported='yes'/>"
               "</features></domainCapabilities>")
WITHOUT = '<domainCapabilities><features/></domainCapabilities>'


GOOD = """
class Buffer:
    from_buffer = None
class NBD:
    def get_version(self):
        return '1.14.2'
"""
# In place of libnbd's, by its condition.
BINDINGS = {
    True: GOOD,
    False: 'raise ModuleNotFoundError("No module named nbd")',
    'old': GOOD.replace('1.14', '1.12'),
    'without shared buffers': GOOD.replace('from_buffer', 'from_bytearray'),
    'for another Python': 'raise ImportError("undefined symbol")',
    'crashing': 'import os; os.abort()',
    'new': GOOD.replace('1.14.2', '1.22.2-rc1'),
}


def capabilities(libvirt=9000000, qemu=7002022, xml=WITH_BACKUP,
                 binding=True, qemu_nbd='/usr/bin/qemu-nbd'):
    nova_host = mock.Mock()
    connection = nova_host.get_connection.return_value
    connection.getLibVersion.return_value = libvirt
    connection.getVersion.return_value = qemu
    connection.getDomainCapabilities.return_value = xml
    with (mock.patch.object(shutil, 'which', return_value=qemu_nbd),
          tempfile.TemporaryDirectory() as path,
          mock.patch.dict(os.environ, PYTHONPATH=path)):
        pathlib.Path(path, 'nbd.py').write_text(
            BINDINGS.get(binding, binding))
        return host.Host(nova_host).capabilities('kvm')


def test_all_is_there(caplog):
    found = capabilities()
    assert found == host.Capabilities('9.0.0', '7.2.22')
    with caplog.at_level(logging.INFO):
        found.log()
    assert [record.getMessage() for record in caplog.records] == [
        'Snapshot paths available: live, mirror, cold, stock (libvirt 9.0.0, '
        'QEMU 7.2.22)']


@pytest.mark.parametrize('lack, words', (
    ({'libvirt': 7001999}, 'package libvirt-daemon'),
    ({'qemu': 5002000}, 'package qemu-system-x86'),
    ({'xml': WITHOUT}, 'backup API'),
    ({'binding': False}, 'package python3-libnbd')))
def test_what_is_missing_is_named_with_its_package(lack, words, caplog):
    found = capabilities(**lack)
    assert words in found.missing[0]
    with caplog.at_level(logging.INFO):
        found.log()
    assert 'live, ' not in caplog.text
    served = lack.get('binding', True)
    assert ('mirror, cold, ' in caplog.text) == served
    assert words in caplog.text


def test_what_other_paths_want_is_no_reason_against_live():
    found = capabilities(qemu_nbd=None)
    assert found.missing == ()
    assert 'package qemu-utils' in found.server_missing[0]


@pytest.mark.parametrize('binding, words', (
    ('old', '1.14 or later (package python3-libnbd): this is 1.12.2'),
    ('without shared buffers', 'from_buffer'),
    ('for another Python', 'undefined symbol'),
    ('crashing', 'it crashes')))
def test_binding_that_is_of_no_use_is_told(binding, words):
    found = capabilities(binding=binding)
    assert words in found.missing[0]
    assert words in found.server_missing[0]


def test_binding_of_a_later_release_will_do():
    assert capabilities(binding='new').missing == ()


@pytest.mark.parametrize('xml, uid', (
    ("<capabilities><host><secmodel><model>apparmor</model></secmodel>"
     "<secmodel><model>dac</model><baselabel type='kvm'>+1:+2</baselabel>"
     "<baselabel type='qemu'>+64055:+103</baselabel></secmodel></host>"
     "</capabilities>", 64055),
    ('<capabilities><host/></capabilities>', None)))
def test_user_of_qemu(xml, uid):
    nova_host = mock.Mock()
    nova_host.get_connection().getCapabilities.return_value = xml
    assert host.Host(nova_host).qemu_uid() == uid
