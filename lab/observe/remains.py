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

"""Find what a snapshot has left behind."""

import pathlib

from lab.observe import processes
from lab.openstack import domain
from lab.openstack import settings


def journal(conf: settings.Settings) -> pathlib.Path:
    """Return the directory of the driver's journal."""
    return conf.nova / 'snapdriver'


def on_host(conf: settings.Settings, *more: pathlib.Path) -> list[str]:
    """Return the files and processes that are left.

    :param more: directories beside the snapshots' and the journal's
    """
    found = [f'file {path}' for folder in (conf.snapshots, journal(conf),
                                           *more)
             if folder.exists() for path in folder.iterdir()]
    found += [f'process {command}' for command in processes.strays()]
    return [f'left behind: {one}' for one in found]


def of_domain(one: domain.Domain, state: str = 'running') -> list[str]:
    """Return what is not as before with a domain."""
    found = [] if one.persistent() else ['is transient']
    if one.state() != state:
        return [*found, f'is {one.state()}']
    # libvirt has no jobs of a domain that does not run.
    if state == 'running' and (one.has_backup_job() or one.has_job()):
        found.append('has a job')
    if '<mirror' in one.xml():
        found.append('has a block job')
    return found
