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

"""The driver on the releases of Nova that the lab itself does not run."""

import subprocess

from lab.openstack import process
from lab.openstack import settings

ENVIRONMENTS = 'functional-nova31,functional-nova32,functional-nova33'
# What meets Nova's own code. The rest does not know which Nova there is.
TESTS = ('tests/functional/test_driver.py', 'tests/functional/test_live.py',
         'tests/functional/test_mirror.py')


def run(conf: settings.Settings) -> int:
    """Run the tests by tox, which is installed for it.

    :returns: tox's status: 0 if all tests passed on each release
    :raises LabError: tox cannot be installed
    """
    home = conf.root / 'matrix'
    log = conf.log('matrix')
    tox = home / 'bin' / 'tox'
    if not tox.exists():
        process.run(log, '/usr/bin/python3', '-m', 'venv', '--clear', home)
        process.run(log, home / 'bin' / 'pip', 'install', 'tox>=4.2')
    return subprocess.run(
        [tox, 'run-parallel', '--parallel', 'all', '--parallel-no-spinner',
         '--workdir', home / 'tox', '-e', ENVIRONMENTS, '--', *TESTS],
        cwd=conf.checkout, env=settings.environment()).returncode
