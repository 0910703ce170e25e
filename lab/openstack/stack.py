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

"""All services together: install them, have them up, remove them."""

import pathlib
import shutil

from lab.openstack import accounts
from lab.openstack import ceph
from lab.openstack import cloud
from lab.openstack import config
from lab.openstack import domain
from lab.openstack import guest
from lab.openstack import kvm
from lab.openstack import packages
from lab.openstack import process
from lab.openstack import secondhost
from lab.openstack import services
from lab.openstack import settings
from lab.openstack import steps
from lab.openstack import unprivileged

DATABASES = ['keystone', 'glance', 'placement', 'neutron', 'nova_api',
             'nova', 'nova_cell0']
# Service: the command that manages it, its file, the command's arguments.
SCHEMAS = {
    'keystone': ('keystone-manage', 'keystone.conf', [
        'db_sync',
        'fernet_setup --keystone-user root --keystone-group root',
        'credential_setup --keystone-user root --keystone-group root']),
    'glance': ('glance-manage', 'glance-api.conf', ['db_sync']),
    'placement': ('placement-manage', 'placement.conf', ['db sync']),
    'neutron': ('neutron-db-manage', 'neutron.conf', ['upgrade heads']),
    'nova': ('nova-manage', 'nova.conf', [
        'api_db sync', 'cell_v2 map_cell0', 'db sync'])}
FLAVOR = 'snapdriver'
FLAVOR_RAM_MIB = 256
FLAVOR_DISK_GIB = guest.DISK_BYTES >> 30
SMALL_FLAVOR = 'snapdriver-small'
SMALL_FLAVOR_DISK_GIB = guest.SMALL_DISK_BYTES >> 30
IMAGE = 'snapdriver-guest'
# The names of the functional tests' domains begin so.
TEST_DOMAINS = 'snapdriver-test-'
# For a new lab, and some snapshots.
NEEDED_BYTES = 15 << 30


class Stack:
    """The services of a lab, and what is in them."""

    def __init__(self, conf: settings.Settings) -> None:
        self.settings = conf
        self.cloud = cloud.Cloud(conf)
        self.guest = guest.Guest(conf)
        self.ceph = ceph.Ceph(conf)
        self.mariadb = services.MariaDB(conf)
        self.epmd = services.Epmd(conf)
        self.rabbitmq = services.RabbitMQ(conf)
        self.memcached = services.Memcached(conf)
        self.virtlogd = services.Virtlogd(conf)
        self.libvirtd = services.Libvirtd(conf)
        self.wsgi = services.wsgi_services(conf)
        self.second = secondhost.SecondHost(self.cloud)
        self.conductor = services.NovaDaemon(conf, 'nova-conductor')
        self.scheduler = services.NovaDaemon(conf, 'nova-scheduler')

    # Up

    def install(self) -> None:
        """Install everything, and start what is not OpenStack's.

        With the standard library alone: openstacksdk and psutil come with it.
        """
        conf, step = self.settings, steps.Step
        steps.run([
            step('space on the disk', self._check_space),
            step('system packages',
                 lambda: packages.install_system(conf)),
            [step('virtual environment',
                  lambda: packages.install_venv(conf)),
             step('MariaDB', self._start_mariadb),
             step('RabbitMQ', self._start_rabbitmq),
             step('memcached', self.memcached.ensure),
             step('libvirt', self.start_libvirt),
             step('guest image', self.guest.build)]])

    def start(self) -> None:
        """Start OpenStack, with our driver in nova-compute."""
        conf, step = self.settings, steps.Step
        steps.run([
            step('configuration files', lambda: config.write_all(conf)),
            [self._schema_step(name) for name in SCHEMAS],
            step('Keystone', self.wsgi['keystone'].ensure),
            step('accounts', lambda: self._once('accounts',
                                                self._make_accounts)),
            [step('Glance', self.wsgi['glance'].ensure),
             step('Placement', self.wsgi['placement'].ensure),
             step('Neutron', self._start_neutron),
             step('Nova API', self.wsgi['nova'].ensure),
             step('nova-conductor', self.conductor.ensure),
             step('nova-scheduler', self.scheduler.ensure)],
            step('register the driver', lambda: packages.register(conf)),
            step('KVM or emulation', lambda: self.guest.virt_type(conf)),
            step('nova-compute', lambda: self.compute(config.Compute())),
            # One that an aborted run has left would get servers.
            step('one compute host', self.second.remove),
            step('images and flavors', self._make_images)])

    def up(self) -> None:
        """Have everything installed and up."""
        self.install()
        self.start()

    def _check_space(self) -> str:
        if self.guest.disk.exists():
            return 'used already'
        free = shutil.disk_usage(self.settings.root).free
        if free < NEEDED_BYTES:
            raise settings.LabError(
                f'{self.settings.root} has {free >> 30} GiB left, and the'
                f' lab needs {NEEDED_BYTES >> 30}')
        return f'{free >> 30} GiB'

    def _once(self, name: str, action: steps.Action) -> str:
        """Do something once for each of OpenStack's releases."""
        stamp = self.settings.state / f'done-{name}'
        wanted = packages.releases()
        if stamp.exists() and stamp.read_text() == wanted:
            return 'done before'
        note = action()
        stamp.write_text(wanted)
        return note or ''

    def _start_mariadb(self) -> str:
        note = self.mariadb.ensure()
        self.mariadb.create(DATABASES)
        return note

    def _start_rabbitmq(self) -> str:
        self.epmd.ensure()
        return self.rabbitmq.ensure()

    def start_libvirt(self) -> str:
        self.virtlogd.ensure()
        return self.libvirtd.ensure()

    def _start_neutron(self) -> str:
        """Start it, and list networks before anything lists ports.

        Neutron 29 answers requests for ports with an error 500 until another
        query has made SQLAlchemy configure its mappers ("type object 'Port'
        has no attribute 'port_forwardings'").
        """
        note = self.wsgi['neutron'].ensure()
        self.cloud.call('GET', 'network', '/networks')
        return note

    def _schema_step(self, name: str) -> steps.Step:
        return steps.Step(f'schema of {name}', lambda: self._once(
            f'schema-{name}', lambda: self._schema(name)))

    def _schema(self, name: str) -> None:
        """Create or upgrade a service's tables."""
        command, file, lines = SCHEMAS[name]
        if name == 'keystone':
            for keys in ('fernet', 'credential'):
                path = self.settings.root / 'keystone' / keys
                path.mkdir(parents=True, exist_ok=True)
        for line in lines:
            self._manage(command, f'{name}/{file}', line)
        if name == 'nova':
            self._create_cell()

    def _manage(self, command: str, file: str, line: str) -> None:
        process.run(self.settings.log(command), self.settings.bin(command),
                    '--config-file', self.settings.etc / file, *line.split())

    def _create_cell(self) -> None:
        """Create the cell of the servers; Nova refuses a second one."""
        listed = process.output(
            self.settings.bin('nova-manage'), '--config-file',
            self.settings.etc / 'nova/nova.conf', 'cell_v2', 'list_cells')
        if 'cell1' not in listed:
            self._manage('nova-manage', 'nova/nova.conf',
                         'cell_v2 create_cell --name cell1')

    def _make_accounts(self) -> None:
        """Create the administrator, and what the services need."""
        url = self.settings.url('keystone')
        self._manage(
            'keystone-manage', 'keystone/keystone.conf',
            f'bootstrap --bootstrap-password {self.settings.password}'
            f' --bootstrap-region-id {settings.REGION}'
            f' --bootstrap-internal-url {url} --bootstrap-public-url {url}')
        accounts.create(self.cloud)
        # The catalog that came with the first token has Keystone alone.
        self.cloud.forget_catalog()

    def compute(self, choice: config.Compute) -> str:
        """Have nova-compute up with a driver, a mode and options."""
        conf = self.settings
        if choice.rbd:
            self.ceph.start()
        config.write(
            config.compute_file(conf),
            config.compute(conf, choice, self.guest.virt_type(conf)))
        if not (conf.state / 'done-discovery').exists():
            self._require_no_domains()
        note = services.NovaCompute(conf, choice).ensure()
        process.wait_for('nova-compute', self.cloud.compute_up, 90,
                         conf.log('nova-compute'))
        self._once('discovery', lambda: self._manage(
            'nova-manage', 'nova/nova.conf',
            'cell_v2 discover_hosts --by-service'))
        return note or f'{choice.driver}, {choice.mode}, {choice.user}'

    def second_up(self, choice: config.Compute, shared: bool = True) -> None:
        """Have the second compute host up, and known to Nova."""
        self.second.up(choice, self.guest.virt_type(self.settings), shared)
        self._manage('nova-manage', 'nova/nova.conf',
                     'cell_v2 discover_hosts --by-service')

    def images(self, choice: config.Images) -> None:
        """Have Glance up with some stores, and Ceph where that is one."""
        glance = self.wsgi['glance']
        if 'rbd' in choice.stores and not self.ceph.start():
            # It knows the cluster by its id, and this is a new one.
            glance.stop()
        config.write_glance(self.settings, choice)
        glance.ensure()

    def _require_no_domains(self) -> None:
        """Remove domains that an aborted run has left.

        :raises LabError: there are others: Nova refuses its first start on
            a host with domains
        """
        self._remove_domains()
        others = domain.names()
        if others:
            raise settings.LabError(
                'a new nova-compute needs a libvirt without domains, and'
                f' there are some that are not the lab\'s: {others}')

    # Images

    def _make_images(self) -> str:
        self.cloud.flavor(FLAVOR, FLAVOR_RAM_MIB, FLAVOR_DISK_GIB)
        self.cloud.flavor(SMALL_FLAVOR, FLAVOR_RAM_MIB,
                          SMALL_FLAVOR_DISK_GIB)
        there = {image['name'] for image in self.cloud.images()
                 if image['status'] == 'active'}
        if {self.image_name, self.small_image_name} <= there:
            return 'there'
        for image in cloud.named(self.cloud.images(), IMAGE):
            self.cloud.delete_image(image['id'])
        kernel = self.cloud.upload(f'{IMAGE}-kernel', 'aki',
                                   self.guest.kernel)
        ramdisk = self.cloud.upload(f'{IMAGE}-ramdisk', 'ari',
                                    self.guest.initramfs)
        for name, disk in ((self.image_name, self.guest.disk),
                           (self.small_image_name, self.guest.small_disk)):
            self.cloud.upload(
                name, 'qcow2', disk, kernel_id=kernel, ramdisk_id=ramdisk,
                os_command_line=guest.COMMAND_LINE,
                hw_qemu_guest_agent='yes', os_type='linux')
        return ''

    @property
    def image_name(self) -> str:
        return f'{IMAGE}-{self.guest.version()}'

    @property
    def small_image_name(self) -> str:
        return f'{IMAGE}-small-{self.guest.version()}'

    def small_image(self, name: str, disk_format: str = 'qcow2',
                    **properties: str) -> str:
        """Have an image of the small disk under a name; return its id.

        :param properties: in addition to, or instead of, the usual ones
        """
        for image in self.cloud.images(name):
            if image['status'] == 'active':
                return str(image['id'])
        disk = self.settings.state / f'small.{disk_format}'
        process.output('qemu-img', 'convert', '-f', 'qcow2', '-O',
                       disk_format, self.guest.small_disk, disk)
        try:
            return self.cloud.upload(
                name, disk_format, disk,
                **{**self.boot_properties(), **properties})
        finally:
            disk.unlink()

    def boot_properties(self) -> dict[str, str]:
        """Return the properties with which Nova boots the guest's kernel."""
        base = self.cloud.images(self.small_image_name)[0]
        return {key: base[key] for key in (
            'kernel_id', 'ramdisk_id', 'os_command_line',
            'hw_qemu_guest_agent', 'os_type')}

    def guest_image(self) -> str:
        """Return the id of the guest's image."""
        return str(self.cloud.images(self.image_name)[0]['id'])

    # Down

    def down(self) -> None:
        """Stop what the lab has started, and remove its directory."""
        conf, step = self.settings, steps.Step
        compute = services.NovaCompute(conf, config.Compute())
        plan: steps.Plan = [step('nova-compute', compute.stop)]
        if self.second.machine.record() is not None:
            plan.append(step('second host', self.second.machine.stop))
        if any(conf.instances.iterdir()):
            plan.append(step('servers', self._remove_domains))
        if self.ceph.made:
            plan.append(step('Ceph', self.ceph.stop))
        plan += [step(daemon.name, _stop(daemon))
                 for daemon in self._daemons()]
        plan += [step('user', lambda: unprivileged.remove(conf)),
                 step('mounts', lambda: kvm.restore(conf)),
                 step(str(conf.root), self._remove)]
        steps.run(plan)

    def _daemons(self) -> list[process.Daemon]:
        """Return all daemons but nova-compute, the last started first."""
        return [self.scheduler, self.conductor,
                *reversed(self.wsgi.values()), self.libvirtd,
                self.virtlogd, self.memcached, self.rabbitmq, self.epmd,
                self.mariadb]

    def _remove_domains(self) -> str:
        """Remove the domains of servers and tests, and no others."""
        self.start_libvirt()
        ours = [domain.Domain(name) for name in domain.names()
                if name.startswith(TEST_DOMAINS) or
                f'{self.settings.root}/' in domain.Domain(name).xml()]
        for one in ours:
            one.remove()
        return str(len(ours))

    def _remove(self) -> None:
        """Remove the directory.

        :raises LabError: something is mounted in it
        """
        if self.settings.small.is_mount():      # after a kill
            process.output('umount', self.settings.small)
        root = str(self.settings.root)
        mounts = pathlib.Path('/proc/self/mounts').read_text().splitlines()
        inside = [line.split()[1] for line in mounts
                  if line.split()[1].startswith(root + '/')]
        if inside:
            raise settings.LabError(
                f'not removed, as these are mounted: {", ".join(inside)}')
        shutil.rmtree(root)


def _stop(daemon: process.Daemon) -> steps.Action:
    def action() -> str:
        if daemon.record() is None:
            return 'not ours, or not up'
        daemon.stop()
        return ''

    return action
