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

"""The administrator's view of the cloud, by openstacksdk.

Servers and images are the JSON of the APIs, so that tests see what users
get and not what a library makes of it.
"""

import collections.abc
import functools
import pathlib
import subprocess
import typing
import urllib.parse

from lab.openstack import process
from lab.openstack import settings

Json = typing.Any
COMPUTE_VERSION = '2.96'
# Seconds between two looks at something that is waited for.
POLL_SECONDS = 0.2
CALL_TIMEOUT = 120


class ApiError(settings.LabError):
    """An API refused a call, with this status."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class Cloud:
    """One administrator's view of the lab."""

    def __init__(self, conf: settings.Settings) -> None:
        self.settings = conf

    @functools.cached_property
    def environment(self) -> dict[str, str]:
        """Return the environment of the `openstack` command."""
        conf = self.settings
        return {
            'OS_AUTH_URL': conf.url('keystone'), 'OS_USERNAME': 'admin',
            'OS_PASSWORD': conf.password, 'OS_PROJECT_NAME': 'admin',
            'OS_USER_DOMAIN_ID': 'default', 'OS_PROJECT_DOMAIN_ID':
            'default', 'OS_REGION_NAME': settings.REGION,
            'OS_IDENTITY_API_VERSION': '3'}

    @functools.cached_property
    def sdk(self) -> typing.Any:
        """Connect, without a clouds.yaml and without caches."""
        # Not above: the help of commands works before it is installed.
        import openstack
        return openstack.connect(
            load_yaml_config=False, load_envvars=False,
            auth={'auth_url': self.settings.url('keystone'),
                  'username': 'admin', 'password': self.settings.password,
                  'project_name': 'admin', 'user_domain_id': 'default',
                  'project_domain_id': 'default'},
            region_name=settings.REGION, api_timeout=CALL_TIMEOUT,
            image_status_code_retries=0,
            compute_default_microversion=COMPUTE_VERSION)

    def token(self) -> str:
        """Return a token of user admin in project admin."""
        return str(self.sdk.session.get_token())

    def forget_catalog(self) -> None:
        """Connect anew for the next call: there are more services now."""
        self.__dict__.pop('sdk', None)

    def forget_token(self) -> None:
        """Authenticate anew for the next call."""
        self.sdk.session.invalidate()

    def call(self, method: str, service: str, path: str,
             body: Json = None) -> Json:
        """Call an API; return the reply's JSON, None where there is none.

        :param service: `image`, `compute` or `network`
        :raises ApiError: the service refused it
        :raises LabError: the service or Keystone did not answer
        """
        from keystoneauth1 import exceptions
        from openstack import exceptions as sdk_exceptions
        try:
            reply = getattr(self.sdk, service).request(path, method,
                                                       json=body)
        except (exceptions.ClientException,
                sdk_exceptions.SDKException) as error:
            raise settings.LabError(f'{method} {service} {path}: {error}'
                                    ) from error
        if not reply.ok:
            raise ApiError(f'{method} {service} {path}: {reply.status_code}'
                           f' {reply.text}', reply.status_code)
        return reply.json() if reply.content else None

    def _delete(self, service: str, path: str) -> None:
        """Delete something, if it is still there."""
        try:
            self.call('DELETE', service, path)
        except ApiError as error:
            if error.status != 404:
                raise

    # Images

    def images(self, name: str | None = None) -> list[Json]:
        """Return the images, or those of one name; at most 1000."""
        query = urllib.parse.urlencode(
            {'limit': 1000, **({'name': name} if name else {})})
        return list(self.call('GET', 'image', f'/images?{query}')['images'])

    def image(self, image_id: str) -> Json:
        return self.call('GET', 'image', f'/images/{image_id}')

    def new_image(self, name: str, disk_format: str = 'qcow2',
                  **properties: str) -> str:
        """Create an image without data; return its id."""
        container = disk_format if disk_format in ('aki', 'ari') else 'bare'
        body = {'name': name, 'disk_format': disk_format,
                'container_format': container, **properties}
        return str(self.call('POST', 'image', '/images', body)['id'])

    def put(self, image_id: str, path: pathlib.Path) -> float:
        """Upload a file by curl, with Content-Length; return curl's seconds.

        Without `Expect`, for which curl would wait up to a second.
        """
        said = self._curl(
            f'/v2/images/{image_id}/file', '-T', str(path),
            '-H', 'Content-Type: application/octet-stream',
            '-H', 'Expect:', '-w', '%{time_total}')
        return float(said)

    def download(self, image_id: str, path: pathlib.Path) -> None:
        """Download by curl: openstacksdk hashes, and takes twice as long."""
        self._curl(f'/v2/images/{image_id}/file', '-o', str(path))

    def _curl(self, path: str, *options: str) -> str:
        """Run curl, with the token on its standard input."""
        url = self.settings.url('glance') + path
        done = subprocess.run(
            ['curl', '-sS', '--fail-with-body', '-K', '-', *options, url],
            input=f'header = "X-Auth-Token: {self.token()}"\n', text=True,
            capture_output=True, env=settings.environment())
        if done.returncode != 0:
            raise settings.LabError(f'curl {url}: {done.stderr}'
                                    f'{done.stdout}')
        return done.stdout

    def upload(self, name: str, disk_format: str, path: pathlib.Path,
               **properties: str) -> str:
        """Create an image from a file; return its id."""
        image_id = self.new_image(name, disk_format, **properties)
        self.put(image_id, path)
        return image_id

    def delete_image(self, image_id: str) -> None:
        """Delete an image, if it is still there."""
        self._delete('image', f'/images/{image_id}')

    def wait_image(self, image_id: str, timeout: float = 300,
                   poll: float = POLL_SECONDS) -> Json:
        """Wait until an image is active; return it.

        :raises LabError: it is deleted or killed, or not in time
        """
        log = self.settings.log('nova-compute')

        def active() -> bool:
            try:
                return bool(self.image(image_id)['status'] == 'active')
            except ApiError as error:
                if error.status != 404:
                    raise
                raise settings.LabError(
                    f'image {image_id} was deleted; nova-compute said last: '
                    f'{_last_error(log)}', log) from error

        process.wait_for(f'image {image_id}', active, timeout, log, poll)
        return self.image(image_id)

    # Servers

    def flavor(self, name: str, ram: int, disk: int, ephemeral: int = 0,
               swap: int = 0) -> str:
        """Have a flavor with one CPU; return its id, which is its name.

        :param ram: MiB
        :param disk: GiB
        :param ephemeral: GiB
        :param swap: MiB
        """
        compute = self.sdk.compute
        if compute.find_flavor(name) is None:
            compute.create_flavor(id=name, name=name, vcpus=1, ram=ram,
                                  disk=disk, ephemeral=ephemeral, swap=swap)
        return name

    def servers(self) -> list[Json]:
        return list(
            self.call('GET', 'compute', '/servers/detail')['servers'])

    def server(self, server_id: str) -> Json:
        return self.call('GET', 'compute', f'/servers/{server_id}')['server']

    def task_state(self, server_id: str) -> str | None:
        found = self.server(server_id)['OS-EXT-STS:task_state']
        return None if found is None else str(found)

    def new_server(self, name: str, image_id: str, flavor: str,
                   **options: Json) -> str:
        """Request a server without a network; return its id."""
        body = {'name': name, 'imageRef': image_id, 'flavorRef': flavor,
                'networks': 'none', **options}
        reply = self.call('POST', 'compute', '/servers', {'server': body})
        return str(reply['server']['id'])

    def wait_server(self, server_id: str, status: str = 'ACTIVE',
                    timeout: float = 300) -> Json:
        """Wait for a status without a task state; return the server.

        :raises LabError: it went into ERROR, or not in time
        """
        def there() -> bool:
            server = self.server(server_id)
            if server['status'] == 'ERROR' != status:
                fault = server.get('fault', {}).get('message')
                raise settings.LabError(
                    f'server {server_id} failed: {fault}',
                    self.settings.log('nova-compute'))
            return (server['status'] == status
                    and server['OS-EXT-STS:task_state'] is None)

        process.wait_for(f'server {server_id} {status}', there, timeout,
                         self.settings.log('nova-compute'))
        return self.server(server_id)

    def action(self, server_id: str, name: str, /,
               **arguments: Json) -> Json:
        """Request an action: pause, os-stop, createImage and so on."""
        return self.call('POST', 'compute', f'/servers/{server_id}/action',
                         {name: arguments or None})

    def change(self, server_id: str, name: str, status: str) -> None:
        """Request an action and wait for a status."""
        self.action(server_id, name)
        self.wait_server(server_id, status)

    def create_image(self, server_id: str, name: str,
                     metadata: dict[str, str] | None = None) -> str:
        """Request a snapshot; return the image's id."""
        reply = self.action(server_id, 'createImage', name=name,
                            metadata=metadata or {})
        return str(reply['image_id'])

    def delete_server(self, server_id: str, timeout: float = 120) -> None:
        """Delete a server and wait until it is gone."""
        self._delete('compute', f'/servers/{server_id}')
        process.wait_for(
            f'deletion of {server_id}', lambda: all(
                one['id'] != server_id for one in self.servers()), timeout,
            self.settings.log('nova-compute'))

    def clean(self, servers: str, images: str) -> None:
        """Delete the servers and images whose names begin so."""
        for server in named(self.servers(), servers):
            self.delete_server(server['id'])
        for image in named(self.images(), images):
            self.delete_image(image['id'])

    def compute_up(self) -> bool:
        """Return whether nova-compute is up, as the API has it."""
        services = self.sdk.compute.services(binary='nova-compute')
        return any(service.state == 'up' for service in services)

    def start_openstack(self, *words: str) -> 'subprocess.Popen[str]':
        """Start the `openstack` command."""
        return subprocess.Popen(
            [self.settings.bin('openstack'), *words], text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**settings.environment(), **self.environment})


def _last_error(log: pathlib.Path) -> str:
    """Return the last line of a log that tells of a failed snapshot."""
    found = [line for line in log.read_text(errors='replace').splitlines()
             if 'nova_snapdriver' in line and 'failed' in line]
    return found[-1] if found else 'nothing'


def named(items: collections.abc.Iterable[Json], prefix: str) -> list[Json]:
    """Return those whose names begin so."""
    return [item for item in items
            if str(item['name'] or '').startswith(prefix)]
