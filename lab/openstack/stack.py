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

"""The whole: what `up` does, in order, and `down`."""

import pathlib
import shutil

from lab.openstack import accounts
from lab.openstack import ceph
from lab.openstack import cloud
from lab.openstack import config
from lab.openstack import domain
from lab.openstack import guest
from lab.openstack import packages
from lab.openstack import process
from lab.openstack import services
from lab.openstack import settings
from lab.openstack import steps
from lab.openstack import unprivileged

DATABASES = ['keystone', 'glance', 'placement', 'neutron', 'nova_api',
             'nova', 'nova_cell0']
FLAVOR = 'snapdriver'
FLAVOR_RAM_MIB = 256
FLAVOR_DISK_GIB = guest.DISK_BYTES >> 30
SMALL_FLAVOR = 'snapdriver-small'
SMALL_FLAVOR_DISK_GIB = guest.SMALL_DISK_BYTES >> 30
IMAGE = 'snapdriver-guest'
# What the functional tests name their domains.
TEST_DOMAINS = 'snapdriver-test-'
# What a lab takes at first, and some snapshots.
NEEDED_BYTES = 15 << 30


class Stack:
    """All of the lab's services and what is in them."""

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
        self.conductor = services.NovaDaemon(conf, 'nova-conductor')
        self.scheduler = services.NovaDaemon(conf, 'nova-scheduler')

    # Up

    def plan(self) -> steps.Plan:
        """Everything from an empty machine to a cloud with a guest."""
        conf, step = self.settings, steps.Step
        return [
            step('space on the disk', self._check_space),
            step('system packages',
                 lambda: packages.install_system(conf)),
            [step('virtual environment',
                  lambda: packages.install_venv(conf)),
             step('MariaDB', self._start_mariadb),
             step('RabbitMQ', self._start_rabbitmq),
             step('memcached', self.memcached.ensure),
             step('libvirt', self._start_libvirt),
             step('guest image', self.guest.build)],
            step('configuration files', self._configure),
            [self._schema_step(name) for name in
             ('keystone', 'glance', 'placement', 'neutron', 'nova')],
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
            step('KVM or emulation',
                 lambda: self.guest.virt_type(conf)),
            step('nova-compute', lambda: self.compute(config.Compute())),
            step('images and flavor', self._make_images)]

    def up(self) -> None:
        """Have everything up, nova-compute with our driver."""
        steps.run(self.plan())

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
        """Do something again only after OpenStack's releases have changed."""
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

    def _start_libvirt(self) -> str:
        self.virtlogd.ensure()
        return self.libvirtd.ensure()

    def _start_neutron(self) -> str:
        """Start it, and ask for something other than ports first.

        Neutron 29 answers questions for ports with an error 500 until an
        earlier query has made SQLAlchemy configure its mappers
        ("type object 'Port' has no attribute 'port_forwardings'").
        """
        note = self.wsgi['neutron'].ensure()
        self.cloud.call('GET', 'neutron', '/v2.0/networks')
        return note

    def _configure(self) -> None:
        config.write_all(self.settings)

    def _schema_step(self, name: str) -> steps.Step:
        def action() -> str:
            return self._once(f'schema-{name}', lambda: self._schema(name))

        return steps.Step(f'schema of {name}', action)

    def _schema(self, name: str) -> None:
        """Create or upgrade a service's tables."""
        commands = {
            'keystone': ('keystone-manage', 'keystone.conf', [
                'db_sync',
                'fernet_setup --keystone-user root --keystone-group root',
                'credential_setup --keystone-user root'
                ' --keystone-group root']),
            'glance': ('glance-manage', 'glance-api.conf', ['db_sync']),
            'placement': ('placement-manage', 'placement.conf',
                          ['db sync']),
            'neutron': ('neutron-db-manage', 'neutron.conf',
                        ['upgrade heads']),
            'nova': ('nova-manage', 'nova.conf', [
                'api_db sync', 'cell_v2 map_cell0', 'db sync'])}
        command, file, lines = commands[name]
        if name == 'keystone':
            for keys in ('fernet', 'credential'):
                path = self.settings.root / 'keystone' / keys
                path.mkdir(parents=True, exist_ok=True)
        for line in lines:
            self._manage(command, self.settings.etc / name / file, line)
        if name == 'nova':
            self._create_cell()

    def _manage(self, command: str, file: pathlib.Path,
                line: str) -> None:
        process.run(self.settings.log(command), self.settings.bin(command),
                    '--config-file', file, *line.split())

    def _create_cell(self) -> None:
        """The cell that servers are in; Nova refuses a second one."""
        file = self.settings.etc / 'nova/nova.conf'
        listed = process.output(
            self.settings.bin('nova-manage'), '--config-file', str(file),
            'cell_v2', 'list_cells')
        if 'cell1' not in listed:
            self._manage('nova-manage', file,
                         'cell_v2 create_cell --name cell1')

    def _make_accounts(self) -> None:
        """The administrator, and what the services need."""
        url = self.settings.url('keystone')
        self._manage(
            'keystone-manage', self.settings.etc / 'keystone/keystone.conf',
            f'bootstrap --bootstrap-password {self.settings.password}'
            f' --bootstrap-region-id {settings.REGION}'
            f' --bootstrap-internal-url {url} --bootstrap-public-url {url}')
        accounts.Accounts(self.settings).create()

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
        self._once('discovery', self._discover)
        return note or f'{choice.driver}, {choice.mode}, {choice.user}'

    def images(self, choice: config.Images) -> None:
        """Have Glance up with some stores, and a Ceph where that is one."""
        glance = self.wsgi['glance']
        if 'rbd' in choice.stores and not self.ceph.start():
            # It knows the cluster by its id, and this is a new one.
            glance.stop()
        config.write_glance(self.settings, choice)
        glance.ensure()

    def _require_no_domains(self) -> None:
        """Nova refuses its first start where libvirt has domains already.

        What an aborted run of the lab or of the tests has left is removed.
        """
        self._remove_domains()
        others = domain.names()
        if others:
            raise settings.LabError(
                'a new nova-compute needs a libvirt without domains, and'
                f' there are some that are not the lab\'s: {others}')

    def _discover(self) -> None:
        """Tell Nova's cell of its one compute host."""
        self._manage('nova-manage', self.settings.etc / 'nova/nova.conf',
                     'cell_v2 discover_hosts --by-service')

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
        """A small guest's image of its own name; made where it is missing.

        :param properties: what it has besides, or instead
        """
        for image in self.cloud.images(name):
            if image['status'] == 'active':
                return str(image['id'])
        disk = self.settings.state / f'small.{disk_format}'
        process.output('qemu-img', 'convert', '-f', 'qcow2', '-O',
                       disk_format, str(self.guest.small_disk), str(disk))
        try:
            return self.cloud.upload(
                name, disk_format, disk,
                **{**self.boot_properties(), **properties})
        finally:
            disk.unlink()

    def boot_properties(self) -> dict[str, str]:
        """What makes Nova boot the guest, whatever is on its disk."""
        base = self.cloud.images(self.small_image_name)[0]
        return {key: base[key] for key in (
            'kernel_id', 'ramdisk_id', 'os_command_line',
            'hw_qemu_guest_agent', 'os_type')}

    def guest_image(self) -> str:
        """The id of the guest's image."""
        return str(self.cloud.images(self.image_name)[0]['id'])

    # Down

    def down(self) -> None:
        """Stop all that the lab started, and remove its directory."""
        plan: steps.Plan = [steps.Step('nova-compute', self._stop_compute)]
        if any(self.settings.instances.iterdir()):
            plan.append(steps.Step('servers', self._remove_domains))
        if self.ceph.made:
            plan.append(steps.Step('Ceph', self.ceph.stop))
        plan += [steps.Step(daemon.name, _stop(daemon))
                 for daemon in self._daemons()]
        plan.append(steps.Step(
            'user', lambda: unprivileged.remove(self.settings)))
        plan.append(steps.Step(str(self.settings.root), self._remove))
        steps.run(plan)

    def _daemons(self) -> list[process.Daemon]:
        """All but nova-compute, the last started first."""
        return [self.scheduler, self.conductor,
                *reversed(self.wsgi.values()), self.libvirtd,
                self.virtlogd, self.memcached, self.rabbitmq, self.epmd,
                self.mariadb]

    def _stop_compute(self) -> None:
        services.NovaCompute(self.settings, config.Compute()).stop()

    def _remove_domains(self) -> str:
        """Remove the domains of servers and tests, and no others."""
        self._start_libvirt()
        ours = [domain.Domain(name) for name in domain.names()
                if name.startswith(TEST_DOMAINS) or
                f'{self.settings.root}/' in domain.Domain(name).xml()]
        for one in ours:
            one.remove()
        return str(len(ours))

    def _remove(self) -> None:
        """Remove the directory, unless something is mounted in it."""
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
