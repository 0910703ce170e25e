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

"""Create the services' accounts and endpoints in Keystone."""

import typing

from lab.openstack import cloud
from lab.openstack import settings

SERVICES = {'glance': 'image', 'placement': 'placement',
            'neutron': 'network', 'nova': 'compute'}
ROLES = ('admin', 'service')
INTERFACES = ('public', 'internal')


def create(api: cloud.Cloud) -> None:
    """Create a project for all services, a user and endpoints for each.

    What is there already stays.
    """
    identity = api.sdk.identity
    project = _have(identity, 'project', 'service', domain_id='default')
    roles = [_have(identity, 'role', name) for name in ROLES]
    for name, kind in SERVICES.items():
        user = _have(identity, 'user', name, domain_id='default',
                     password=api.settings.password)
        for role in roles:
            identity.assign_project_role_to_user(project, user, role)
        service = _have(identity, 'service', name, type=kind)
        there = {endpoint.interface for endpoint in
                 identity.endpoints(service_id=service.id)}
        for interface in set(INTERFACES) - there:
            identity.create_endpoint(
                service_id=service.id, interface=interface,
                url=api.settings.url(name), region_id=settings.REGION)


def _have(identity: typing.Any, kind: str, name: str,
          **fields: str) -> typing.Any:
    """Find or create a project, role, user or service."""
    found = getattr(identity, f'find_{kind}')(name)
    return found or getattr(identity, f'create_{kind}')(name=name, **fields)
