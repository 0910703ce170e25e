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


"""Keys and certificates with which libvirtd and its clients know each other.

libvirt checks the names and the purposes that a certificate was made for.
"""

import pathlib

from lab.openstack import process
from lab.openstack import settings

FILES = {'ca': 'cacert.pem', 'server': 'servercert.pem',
         'client': 'clientcert.pem'}
KEYS = {'ca': 'cakey.pem', 'server': 'serverkey.pem',
        'client': 'clientkey.pem'}
OPENSSL_CONF = f"""
[req]
distinguished_name = name
prompt = no
[name]
CN = {settings.ADDRESS}
[authority]
basicConstraints = critical, CA:TRUE
keyUsage = keyCertSign
[holder]
basicConstraints = critical, CA:FALSE
subjectAltName = IP:{settings.ADDRESS}
keyUsage = digitalSignature, keyEncipherment
extendedKeyUsage = serverAuth, clientAuth
"""
DAYS = '3650'


def make(folder: pathlib.Path) -> None:
    """Make them once, in a directory for root alone.

    :param folder: what libvirt calls a pkipath
    """
    if (folder / FILES['client']).exists():
        return
    folder.mkdir(mode=0o700, exist_ok=True)
    (folder / 'openssl.conf').write_text(OPENSSL_CONF)
    _certify(folder, 'ca', 'authority')
    signer = ('-CA', folder / FILES['ca'], '-CAkey', folder / KEYS['ca'])
    for name in ('server', 'client'):
        _certify(folder, name, 'holder', *signer)


def _certify(folder: pathlib.Path, name: str, extensions: str,
             *signer: process.Word) -> None:
    process.output(
        'openssl', 'req', '-x509', '-newkey', 'ec', '-pkeyopt',
        'ec_paramgen_curve:prime256v1', '-noenc', '-days', DAYS,
        '-config', folder / 'openssl.conf', '-extensions', extensions,
        *signer, '-keyout', folder / KEYS[name], '-out', folder / FILES[name])
