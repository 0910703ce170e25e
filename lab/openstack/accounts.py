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

"""Keystone's contents: the services, their users and their addresses."""

from lab.openstack import cloud
from lab.openstack import settings

SERVICES = {'glance': 'image', 'placement': 'placement',
            'neutron': 'network', 'nova': 'compute'}
ROLES = ('admin', 'service')


class Accounts:
    """Makes what is missing; what is there stays."""

    def __init__(self, conf: settings.Settings) -> None:
        self._settings = conf
        self._cloud = cloud.Cloud(conf)

    def create(self) -> None:
        """One project for all services, a user and a service for each."""
        project = self._entry('project', 'service', domain_id='default')
        roles = [self._entry('role', name) for name in ROLES]
        for name, kind in SERVICES.items():
            user = self._entry('user', name, domain_id='default',
                               password=self._settings.password)
            for role in roles:
                self._call('PUT', f'/projects/{project}/users/{user}'
                                  f'/roles/{role}')
            self._endpoints(self._entry('service', name, type=kind), name)

    def _call(self, method: str, path: str,
              body: cloud.Json = None) -> cloud.Json:
        return self._cloud.call(method, 'keystone', path, body)

    def _entry(self, kind: str, name: str, **fields: str) -> str:
        """The id of a project, role, user or service of this name."""
        found = self._call('GET', f'/{kind}s?name={name}')[f'{kind}s']
        if found:
            return str(found[0]['id'])
        made = self._call('POST', f'/{kind}s',
                          {kind: {'name': name, **fields}})
        return str(made[kind]['id'])

    def _endpoints(self, service: str, name: str) -> None:
        found = self._call('GET', f'/endpoints?service_id={service}')
        there = {endpoint['interface'] for endpoint in found['endpoints']}
        for interface in {'public', 'internal'} - there:
            self._call('POST', '/endpoints', {'endpoint': {
                'service_id': service, 'interface': interface,
                'url': self._settings.url(name),
                'region_id': settings.REGION}})
