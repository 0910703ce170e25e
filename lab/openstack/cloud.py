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

"""Calls to the lab's APIs, with a token of the administrator."""

import collections.abc
import functools
import json
import pathlib
import subprocess
import time
import typing
import urllib.error
import urllib.parse
import urllib.request

from lab.openstack import process
from lab.openstack import services
from lab.openstack import settings

Json = typing.Any
COMPUTE_VERSION = '2.96'
# Seconds between two looks at something that is waited for.
POLL_SECONDS = 0.2
CALL_TIMEOUT = 120
# Renew the token before Keystone's hour is over.
TOKEN_SECONDS = 1800


class ApiError(settings.LabError):
    """A service said no: its status and its words are in the message."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class Cloud:
    """One administrator's view of the lab."""

    def __init__(self, conf: settings.Settings) -> None:
        self.settings = conf
        self._token = ''
        self._token_until = 0.0

    def token(self) -> str:
        """A token of user admin in project admin."""
        if time.monotonic() > self._token_until:
            self._token = self._authenticate()
            self._token_until = time.monotonic() + TOKEN_SECONDS
        return self._token

    def forget_token(self) -> None:
        """Get another one for the next call."""
        self._token_until = 0.0

    def _authenticate(self) -> str:
        domain = {'id': 'default'}
        user = {'name': 'admin', 'domain': domain,
                'password': self.settings.password}
        body = {'auth': {
            'identity': {'methods': ['password'],
                         'password': {'user': user}},
            'scope': {'project': {'name': 'admin', 'domain': domain}}}}
        reply = self._open('POST', 'keystone', '/auth/tokens', body, {})
        token = reply.headers['X-Subject-Token']
        return str(token)

    def call(self, method: str, service: str, path: str,
             body: Json = None, content_type: str = 'application/json',
             ) -> Json:
        """One call; returns the reply's JSON, None where there is none.

        :raises ApiError: with the status and the body of the reply
        """
        headers = {'X-Auth-Token': self.token(),
                   'Content-Type': content_type,
                   'OpenStack-API-Version': f'compute {COMPUTE_VERSION}'}
        with self._open(method, service, path, body, headers) as reply:
            text = reply.read()
        return json.loads(text) if text else None

    def _open(self, method: str, service: str, path: str, body: Json,
              headers: dict[str, str]) -> Json:
        data = None if body is None else json.dumps(body).encode()
        headers.setdefault('Content-Type', 'application/json')
        request = urllib.request.Request(
            self.settings.url(service) + path, data, headers,
            method=method)
        try:
            return services.OPENER.open(request, timeout=CALL_TIMEOUT)
        except urllib.error.HTTPError as error:
            words = error.read().decode(errors='replace')
            raise ApiError(
                f'{method} {service}{path}: {error.code} {words}',
                error.code) from error
        except OSError as error:
            raise settings.LabError(
                f'{method} {service}{path}: {error}',
                self.settings.log(service)) from error

    # Images

    def images(self, name: str | None = None) -> list[Json]:
        """The images, or those of one name; at most 1000."""
        query = f'&name={urllib.parse.quote(name)}' if name else ''
        reply = self.call('GET', 'glance', f'/v2/images?limit=1000{query}')
        return list(reply['images'])

    def image(self, image_id: str) -> Json:
        return self.call('GET', 'glance', f'/v2/images/{image_id}')

    def new_image(self, name: str, disk_format: str = 'qcow2',
                  **properties: str) -> str:
        """Make an image without data yet; returns its id."""
        container = disk_format if disk_format in ('aki', 'ari') else 'bare'
        body = {'name': name, 'disk_format': disk_format,
                'container_format': container, **properties}
        return str(self.call('POST', 'glance', '/v2/images', body)['id'])

    def put(self, image_id: str, path: pathlib.Path) -> float:
        """Upload a file with Content-Length; returns curl's seconds.

        Without `Expect`, for which curl would wait up to a second.
        """
        said = self._curl(
            f'/v2/images/{image_id}/file', '-T', str(path),
            '-H', 'Content-Type: application/octet-stream',
            '-H', 'Expect:', '-w', '%{time_total}')
        return float(said)

    def download(self, image_id: str, path: pathlib.Path) -> None:
        self._curl(f'/v2/images/{image_id}/file', '-o', str(path))

    def _curl(self, path: str, *options: str) -> str:
        """Run curl; the token goes in by its standard input."""
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
        """A new image with a file's bytes; returns its id."""
        image_id = self.new_image(name, disk_format, **properties)
        self.put(image_id, path)
        return image_id

    def delete_image(self, image_id: str) -> None:
        """Delete an image; one that is gone already is fine."""
        self._delete('glance', f'/v2/images/{image_id}')

    def wait_image(self, image_id: str, timeout: float = 300) -> Json:
        """Wait until an image is active; returns it.

        :raises LabError: it is deleted or killed, or not in time
        """
        def active() -> bool:
            status = self.image(image_id)['status']
            if status in ('deleted', 'killed', 'pending_delete'):
                raise settings.LabError(f'image {image_id} is {status}')
            return bool(status == 'active')

        process.wait_for(f'image {image_id}', active, timeout,
                         self.settings.log('nova-compute'), POLL_SECONDS)
        return self.image(image_id)

    # Servers

    def flavor(self, name: str, ram: int, disk: int, ephemeral: int = 0,
               swap: int = 0) -> str:
        """A flavor of one CPU; made if needed.

        :param ram: MiB
        :param disk: GiB
        :param ephemeral: GiB
        :param swap: MiB
        """
        try:
            self.call('GET', 'nova', f'/flavors/{name}')
        except ApiError as error:
            if error.status != 404:
                raise
            self.call('POST', 'nova', '/flavors', {'flavor': {
                'id': name, 'name': name, 'vcpus': 1, 'ram': ram,
                'disk': disk, 'OS-FLV-EXT-DATA:ephemeral': ephemeral,
                'swap': swap}})
        return name

    def servers(self) -> list[Json]:
        return list(
            self.call('GET', 'nova', '/servers/detail')['servers'])

    def server(self, server_id: str) -> Json:
        return self.call('GET', 'nova', f'/servers/{server_id}')['server']

    def new_server(self, name: str, image_id: str, flavor: str,
                   **options: Json) -> str:
        """Ask for a server without a network; returns its id."""
        body = {'name': name, 'imageRef': image_id, 'flavorRef': flavor,
                'networks': 'none', **options}
        reply = self.call('POST', 'nova', '/servers', {'server': body})
        return str(reply['server']['id'])

    def wait_server(self, server_id: str, status: str = 'ACTIVE',
                    timeout: float = 300) -> Json:
        """Wait for a status with no task under way; returns the server.

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
        """An action such as pause, unpause, os-stop, createImage."""
        return self.call('POST', 'nova', f'/servers/{server_id}/action',
                         {name: arguments or None})

    def delete_server(self, server_id: str, timeout: float = 120) -> None:
        """Delete a server and wait until it is gone."""
        self._delete('nova', f'/servers/{server_id}')

        def gone() -> bool:
            return all(one['id'] != server_id for one in self.servers())

        process.wait_for(f'deletion of {server_id}', gone, timeout,
                         self.settings.log('nova-compute'))

    def _delete(self, service: str, path: str) -> None:
        try:
            self.call('DELETE', service, path)
        except ApiError as error:
            if error.status != 404:
                raise

    def compute_up(self) -> bool:
        """Whether the API has nova-compute as up and enabled."""
        reply = self.call('GET', 'nova',
                          '/os-services?binary=nova-compute')
        return any(service['state'] == 'up'
                   for service in reply['services'])

    # The command line

    @functools.cached_property
    def environment(self) -> dict[str, str]:
        """What the `openstack` command needs."""
        conf = self.settings
        return {
            'OS_AUTH_URL': conf.url('keystone'), 'OS_USERNAME': 'admin',
            'OS_PASSWORD': conf.password, 'OS_PROJECT_NAME': 'admin',
            'OS_USER_DOMAIN_ID': 'default', 'OS_PROJECT_DOMAIN_ID':
            'default', 'OS_REGION_NAME': settings.REGION,
            'OS_IDENTITY_API_VERSION': '3'}

    def openstack(self, *words: str) -> str:
        """Run the `openstack` command; returns what it prints.

        :raises LabError: it failed, with its errors
        """
        child = self.start_openstack(*words)
        out, errors = child.communicate()
        if child.returncode != 0:
            raise settings.LabError(
                f'openstack {" ".join(words)}: {errors}')
        return out

    def start_openstack(self, *words: str) -> 'subprocess.Popen[str]':
        """Start the `openstack` command."""
        return subprocess.Popen(
            [self.settings.bin('openstack'), *words], text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**settings.environment(), **self.environment})


def named(items: collections.abc.Iterable[Json], prefix: str) -> list[Json]:
    """Those whose names begin so."""
    return [item for item in items
            if str(item['name'] or '').startswith(prefix)]
