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

"""The services of the lab, a class for each kind."""

import functools
import pathlib
import urllib.error
import urllib.request

from lab.openstack import certificates
from lab.openstack import config
from lab.openstack import kvm
from lab.openstack import process
from lab.openstack import settings
from lab.openstack import unprivileged

# Without a proxy for loopback, whatever the environment says.
OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))
VIRTLOGD_SOCKET = pathlib.Path('/run/libvirt/virtlogd-sock')
KVM_NOTE = ('(/dev/kvm is closed to QEMU: libvirtd sees another node there, as'
            ' it would probe QEMU at each call)')


class MariaDB(process.Daemon):
    """MariaDB, as the user that its package has made."""

    name = 'mariadb'

    @property
    def data(self) -> pathlib.Path:
        return self.settings.root / 'mariadb'

    @property
    def socket(self) -> pathlib.Path:
        return self.data / 'mariadb.sock'

    def argv(self) -> list[str]:
        return [
            '/usr/sbin/mariadbd', '--no-defaults', '--user=mysql',
            f'--datadir={self.data}', f'--socket={self.socket}',
            f'--pid-file={self.data}/mariadb.pid',
            f'--bind-address={settings.ADDRESS}', f'--port={self.port}',
            '--max-connections=1000', '--skip-log-bin',
            # The lab may lose a second of data if the machine crashes.
            '--innodb-flush-log-at-trx-commit=0']

    def prepare(self) -> None:
        if not (self.data / 'mysql').exists():
            process.run(
                self.log, 'mariadb-install-db', '--no-defaults',
                '--user=mysql', f'--datadir={self.data}', '--skip-test-db',
                '--auth-root-authentication-method=socket')

    def ready(self) -> bool:
        return self.socket.exists() and super().ready()

    def create(self, names: list[str]) -> None:
        """Create the databases, and the account that uses them."""
        account = f"'lab'@'{settings.ADDRESS}'"
        lines = [f"CREATE USER IF NOT EXISTS {account}"
                 f" IDENTIFIED BY '{self.settings.password}';"]
        for name in names:
            lines += [f'CREATE DATABASE IF NOT EXISTS {name}'
                      ' CHARACTER SET utf8mb4;',
                      f'GRANT ALL ON {name}.* TO {account};']
        process.run(self.log, 'mariadb', '--no-defaults',
                    f'--socket={self.socket}', '-u', 'root',
                    stdin='\n'.join(lines))


class Epmd(process.Daemon):
    """Erlang's port mapper, for RabbitMQ.

    RabbitMQ would start one that listens on all addresses and outlives it.
    """

    name = 'epmd'

    def argv(self) -> list[str]:
        return ['/usr/bin/epmd', '-address', settings.ADDRESS,
                '-port', str(self.port)]


class RabbitMQ(process.Daemon):
    """RabbitMQ, with a node name and directories of its own."""

    name = 'rabbitmq'

    @property
    def home(self) -> pathlib.Path:
        return self.settings.root / 'rabbitmq'

    def argv(self) -> list[str]:
        return ['/usr/lib/rabbitmq/bin/rabbitmq-server']

    def env(self) -> dict[str, str]:
        ports = self.settings.ports
        return {
            'HOME': str(self.home),
            'ERL_EPMD_ADDRESS': settings.ADDRESS,
            'ERL_EPMD_PORT': str(ports.epmd),
            'RABBITMQ_NODENAME': 'snapdriver-lab@localhost',
            'RABBITMQ_DIST_PORT': str(ports.rabbitmq_distribution),
            'RABBITMQ_MNESIA_BASE': str(self.home / 'data'),
            'RABBITMQ_LOG_BASE': str(self.home / 'log'),
            'RABBITMQ_CONFIG_FILE': str(self.home / 'rabbitmq'),
            'RABBITMQ_CONF_ENV_FILE': str(self.home / 'none'),
            'RABBITMQ_ENABLED_PLUGINS_FILE': str(self.home / 'plugins'),
            'RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS':
                '-kernel inet_dist_use_interface {127,0,0,1}',
            # Has the script exec Erlang instead of waiting for it.
            'RUNNING_UNDER_SYSTEMD': '1'}

    def prepare(self) -> None:
        self.home.mkdir(mode=0o700, exist_ok=True)
        (self.home / 'plugins').write_text('[].\n')
        (self.home / 'rabbitmq.conf').write_text(
            f'listeners.tcp.1 = {settings.ADDRESS}:{self.port}\n'
            f'default_user = lab\ndefault_pass = {self.settings.password}\n'
            # The default of 50 MB comes too late on a full disk.
            'disk_free_limit.absolute = 200MB\n')


class Memcached(process.Daemon):
    """memcached, which caches validated tokens."""

    name = 'memcached'

    def argv(self) -> list[str]:
        return ['/usr/bin/memcached', '-u', 'nobody', '-l',
                settings.ADDRESS, '-p', str(self.port)]


class _MachineDaemon(process.Daemon):
    """One that the machine may run already, and that is used then."""

    def ensure(self) -> str:
        if self.record() is None and self.ready():
            return "the machine's own"
        return super().ensure()


class Virtlogd(_MachineDaemon):
    """virtlogd, which writes the console logs."""

    name = 'virtlogd'

    def argv(self) -> list[str]:
        return ['/usr/sbin/virtlogd',
                '--pid-file', str(self.settings.state / 'virtlogd.run')]

    def ready(self) -> bool:
        return process.accepts(VIRTLOGD_SOCKET)


class Libvirtd(_MachineDaemon):
    """libvirtd, also by TLS, with a /dev/kvm that does not slow it down."""

    name = 'libvirtd'

    def argv(self) -> list[str]:
        words = ['/usr/sbin/libvirtd', '--listen', '--config',
                 str(self._config),
                 '--pid-file', str(self.settings.state / 'libvirtd.run')]
        return kvm.covered(self.settings, words) if self._is_slow else words

    @functools.cached_property
    def _is_slow(self) -> bool:
        return kvm.is_slow()

    @property
    def _config(self) -> pathlib.Path:
        return self.settings.etc / 'libvirtd.conf'

    def prepare(self) -> None:
        """Admit a group: the default asks polkit, which is not here."""
        pki = self.settings.libvirt_pki
        certificates.make(pki)
        self._config.write_text(
            'unix_sock_group = "libvirt"\nunix_sock_rw_perms = "0770"\n'
            'auth_unix_ro = "none"\nauth_unix_rw = "none"\n'
            f'listen_addr = "{settings.ADDRESS}"\n'
            f'tls_port = "{self.settings.ports.libvirt_tls}"\n'
            f'ca_file = "{pki / certificates.FILES["ca"]}"\n'
            f'cert_file = "{pki / certificates.FILES["server"]}"\n'
            f'key_file = "{pki / certificates.KEYS["server"]}"\n')
        if self._is_slow:
            kvm.prepare(self.settings)

    def ready(self) -> bool:
        try:
            process.output('virsh', '-c', 'qemu:///system', 'version')
        except settings.LabError:
            return False
        return True

    def ensure(self) -> str:
        note = super().ensure()
        used = self._is_slow and self.record() is not None
        return f'{note} {KVM_NOTE}'.strip() if used else note


class WsgiService(process.Daemon):
    """An API service under uWSGI.

    :param module: of the WSGI application
    :param files: its configuration, in its directory
    """

    def __init__(self, conf: settings.Settings, name: str, module: str,
                 env: dict[str, str], files: tuple[str, ...],
                 processes: int = 1) -> None:
        super().__init__(conf, name)
        self._module = module
        self._env = env
        self._files = files
        self._processes = processes

    def argv(self) -> list[str]:
        return [
            self.settings.bin('uwsgi'), '--master', '--die-on-term',
            '--http-socket', f'{settings.ADDRESS}:{self.port}',
            '--module', f'{self._module}:application', '--need-app',
            '--lazy-apps', '--enable-threads', '--threads', '8',
            '--processes', str(self._processes),
            '--virtualenv', str(self.settings.venv),
            '--buffer-size', '65535',
            # Seconds for a worker to end: some have threads that never do.
            '--worker-reload-mercy', '3',
            # Connections that are kept alive end in resets.
            '--add-header', 'Connection: close',
            # Seconds between two reads of an upload, in chunks or not. With
            # the default of 4, an upload that pauses ends in an error 500.
            '--chunked-input-timeout', '300', '--socket-timeout', '300',
            # Bytes of a chunk. glanceclient's 1 MiB and its framing exceed
            # the default of 1 MiB: an error 500, too.
            '--chunked-input-limit', str(16 << 20)]

    def env(self) -> dict[str, str]:
        return self._env

    def sources(self) -> list[pathlib.Path]:
        folder = self.settings.etc / self.name
        return [folder / name for name in self._files]

    def ready(self) -> bool:
        url = f'{self.settings.url(self.name)}/'
        try:
            OPENER.open(url, timeout=10).close()
        except urllib.error.HTTPError as error:
            return error.code < 500
        except OSError:
            return False
        return True


def wsgi_services(conf: settings.Settings) -> dict[str, WsgiService]:
    """Return the five API services, by name."""
    etc = conf.etc
    listed = [
        WsgiService(conf, 'keystone', 'keystone.wsgi.api', {
            'OS_KEYSTONE_CONFIG_FILES': f'{etc}/keystone/keystone.conf'},
            ('keystone.conf',)),
        WsgiService(conf, 'glance', 'glance.wsgi.api', {
            'OS_GLANCE_CONFIG_DIR': f'{etc}/glance'},
            ('glance-api.conf', 'policy.yaml', 'property-protections.conf'),
            processes=2),
        WsgiService(conf, 'placement', 'placement.wsgi.api', {
            'OS_PLACEMENT_CONFIG_DIR': f'{etc}/placement'},
            ('placement.conf',)),
        WsgiService(conf, 'neutron', 'neutron.wsgi.api', {
            'OS_NEUTRON_CONFIG_DIR': f'{etc}/neutron',
            'OS_NEUTRON_CONFIG_FILES': 'neutron.conf'}, ('neutron.conf',)),
        WsgiService(conf, 'nova', 'nova.wsgi.osapi_compute', {
            'OS_NOVA_CONFIG_DIR': f'{etc}/nova',
            'OS_NOVA_CONFIG_FILES': 'api-paste.ini;nova.conf'},
            ('nova.conf',))]
    return {service.name: service for service in listed}


class NovaDaemon(process.Daemon):
    """nova-conductor, nova-scheduler, nova-compute."""

    MARK = b'--- started by the lab ---\n'
    #: Logged at debug level once it takes calls.
    STARTED = b'Join ServiceGroup membership'
    #: Logged when its start has failed; the process may stay.
    FAILED = b' CRITICAL nova '

    def __init__(self, conf: settings.Settings, name: str,
                 mode: str = 'threading') -> None:
        super().__init__(conf, name)
        self._mode = mode

    def argv(self) -> list[str]:
        words = [self.settings.bin(self.name)]
        for path in self.sources():
            words += ['--config-file', str(path)]
        return words

    def env(self) -> dict[str, str]:
        if self._mode == 'eventlet':
            # Few, so that what holds one for long is seen.
            return {'EVENTLET_THREADPOOL_SIZE': '3'}
        return {'OS_NOVA_DISABLE_EVENTLET_PATCHING': '1'}

    def sources(self) -> list[pathlib.Path]:
        return [self.settings.etc / 'nova/nova.conf']

    def prepare(self) -> None:
        """Mark where this start begins in the log."""
        with open(self.log, 'ab') as file:
            file.write(self.MARK)

    def ready(self) -> bool:
        text = self.log.read_bytes().rpartition(self.MARK)[2]
        if self.FAILED in text:
            self.kill()
            last = text.rpartition(self.FAILED)[2].splitlines()[0]
            raise settings.LabError(last.decode(), self.log)
        return self.STARTED in text

    def stop(self) -> None:
        """Kill it: Nova 34's graceful shutdown takes minutes.

        Meanwhile it takes calls that are for the next process. The lab stops
        it when it is idle.
        """
        self.kill()
        super().stop()


class NovaCompute(NovaDaemon):
    """nova-compute, with a driver and a concurrency mode."""

    def __init__(self, conf: settings.Settings,
                 choice: config.Compute) -> None:
        super().__init__(conf, 'nova-compute', choice.mode)
        self._environment = dict(choice.environment)
        if choice.user != config.ROOT:
            self.user = choice.user

    def env(self) -> dict[str, str]:
        """Point a user other than root to a copy of the code.

        It may not have access to the checkout.
        """
        given = {**super().env(), **self._environment}
        if self.user is None:
            return given
        return {**given, 'HOME': str(self.settings.nova),
                'PYTHONPATH': str(unprivileged.code(self.settings))}

    def prepare(self) -> None:
        super().prepare()
        if self.user is not None:
            unprivileged.prepare(self.settings, self.user)

    def sources(self) -> list[pathlib.Path]:
        return [config.compute_file(self.settings)]

    def fingerprint(self) -> str:
        """Include the code of the driver."""
        folder = self.settings.checkout / 'nova_snapdriver'
        times = [path.stat().st_mtime_ns
                 for path in sorted(folder.rglob('*.py'))]
        return f'{super().fingerprint()} {hash(tuple(times))} {self.user}'
