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

"""Write the configuration files of the services."""

import collections.abc
import configparser
import dataclasses
import io
import json
import pathlib

from lab.openstack import ceph
from lab.openstack import settings

Ini = dict[str, dict[str, str]]
# (group, option, value) each.
Options = tuple[tuple[str, str, str], ...]

DRIVERS = {'ours': 'snapdriver.SnapDriver',
           'stock': 'libvirt.LibvirtDriver'}
MODES = ('threading', 'eventlet')
ROOT = 'root'
USERS = (ROOT, 'nova')
# The groups of options of privsep's contexts.
PRIVSEP = ('nova_sys_admin', 'privsep_osbrick', 'vif_plug_ovs_privileged',
           'vif_plug_linux_bridge_privileged')


@dataclasses.dataclass(frozen=True)
class Compute:
    """How nova-compute runs.

    :param user: the account that it runs as
    :param rbd: whether disks are on Ceph
    :param tls: whether it reaches libvirtd by TLS, as one in another
        container does
    :param environment: (name, value) each
    """

    driver: str = 'ours'
    mode: str = 'threading'
    options: Options = ()
    user: str = ROOT
    rbd: bool = False
    tls: bool = False
    environment: tuple[tuple[str, str], ...] = ()


@dataclasses.dataclass(frozen=True)
class Images:
    """How Glance runs.

    :param stores: `file`, `rbd` or both; new images go to the first
    :param refused: names of policies that nobody meets
    :param protected: expressions for properties that nobody may set
    """

    stores: tuple[str, ...] = ('file',)
    refused: tuple[str, ...] = ()
    protected: tuple[str, ...] = ()
    options: Options = ()


def option(text: str) -> tuple[str, str, str]:
    """Parse `group.option=value`.

    :raises ValueError: it is not of this form
    """
    name, equals, value = text.partition('=')
    group, dot, key = name.rpartition('.')
    if not (equals and dot and group and key):
        raise ValueError(f'{text!r} is not group.option=value')
    return group, key, value


def write(path: pathlib.Path, ini: Ini) -> pathlib.Path:
    """Write a file for root alone: it contains passwords."""
    parser = configparser.RawConfigParser(
        default_section='none', delimiters=('=',))
    parser.optionxform = str  # type: ignore[assignment]
    parser.read_dict(ini)
    text = io.StringIO()
    parser.write(text)
    path.parent.mkdir(exist_ok=True)
    path.touch(mode=0o600)
    path.write_text(text.getvalue())
    return path


def _auth(conf: settings.Settings, user: str) -> dict[str, str]:
    """Return the options of a client of Keystone."""
    return {
        'auth_type': 'password', 'auth_url': conf.url('keystone'),
        'username': user, 'password': conf.password,
        'project_name': 'service', 'user_domain_name': 'Default',
        'project_domain_name': 'Default', 'region_name': settings.REGION}


def _token(conf: settings.Settings, user: str) -> dict[str, str]:
    """Return [keystone_authtoken]: how a service validates tokens."""
    memcached = f'{settings.ADDRESS}:{conf.ports.memcached}'
    return {
        **_auth(conf, user), 'www_authenticate_uri': conf.url('keystone'),
        'memcached_servers': memcached,
        'service_token_roles': 'service',
        'service_token_roles_required': 'true'}


def keystone(conf: settings.Settings) -> Ini:
    """Return keystone.conf."""
    keys = conf.root / 'keystone'
    return {
        'database': {'connection': conf.database('keystone')},
        'token': {'provider': 'fernet'},
        'fernet_tokens': {'key_repository': str(keys / 'fernet')},
        'credential': {'key_repository': str(keys / 'credential')}}


def glance(conf: settings.Settings, choice: Images = Images()) -> Ini:
    """Return glance-api.conf."""
    store = conf.root / 'glance'
    stores = ','.join(f'{name}:{name}' for name in choice.stores)
    ini: Ini = {
        'DEFAULT': {'enabled_backends': stores,
                    # By this Nova decides whether to clone an image.
                    'show_image_direct_url': 'true',
                    'node_staging_uri': f'file://{store}/staging'},
        'database': {'connection': conf.database('glance')},
        'glance_store': {'default_backend': choice.stores[0]},
        'file': {'filesystem_store_datadir': str(store / 'images')},
        'rbd': {'rbd_store_ceph_conf': str(conf.ceph_conf),
                'rbd_store_pool': ceph.IMAGES, 'rbd_store_user': ceph.GLANCE,
                'rbd_thin_provisioning': 'true'},
        'oslo_policy': {'policy_file': str(_policies(conf))},
        'os_glance_staging_store': {
            'filesystem_store_datadir': str(store / 'staging')},
        'os_glance_tasks_store': {
            'filesystem_store_datadir': str(store / 'tasks')},
        'keystone_authtoken': _token(conf, 'glance'),
        'paste_deploy': {'flavor': 'keystone'},
        'oslo_concurrency': {'lock_path': str(store / 'lock')}}
    if choice.protected:
        ini['DEFAULT']['property_protection_file'] = str(_protections(conf))
    return _with(ini, choice.options)


def _with(ini: Ini, options: Options) -> Ini:
    for group, key, value in options:
        ini.setdefault(group, {})[key] = value
    return ini


def placement(conf: settings.Settings) -> Ini:
    """Return placement.conf."""
    return {
        'api': {'auth_strategy': 'keystone'},
        'placement_database': {'connection': conf.database('placement')},
        'keystone_authtoken': _token(conf, 'placement')}


def neutron(conf: settings.Settings) -> Ini:
    """Return neutron.conf, for servers without a network."""
    return {
        'DEFAULT': {
            'core_plugin': 'ml2',
            'service_plugins': 'router,port_forwarding',
            'api_paste_config': str(
                conf.venv / 'etc/neutron/api-paste.ini'),
            'transport_url': conf.transport(),
            'state_path': str(conf.root / 'neutron'),
            'notify_nova_on_port_status_changes': 'false',
            'notify_nova_on_port_data_changes': 'false'},
        'ml2': {'type_drivers': 'local', 'tenant_network_types': 'local',
                'mechanism_drivers': ''},
        'database': {'connection': conf.database('neutron')},
        'keystone_authtoken': _token(conf, 'neutron'),
        'oslo_concurrency': {'lock_path': str(conf.root / 'neutron/lock')}}


def nova(conf: settings.Settings) -> Ini:
    """Return nova.conf, which Nova's services share."""
    return {
        'DEFAULT': {
            'host': settings.COMPUTE_HOST, 'my_ip': settings.ADDRESS,
            'state_path': str(conf.nova), 'debug': 'true',
            'transport_url': conf.transport()},
        'api': {'auth_strategy': 'keystone'},
        'api_database': {'connection': conf.database('nova_api')},
        'database': {'connection': conf.database('nova')},
        'keystone_authtoken': _token(conf, 'nova'),
        'service_user': {**_auth(conf, 'nova'),
                         'send_service_user_token': 'true'},
        'placement': _auth(conf, 'placement'),
        'neutron': _auth(conf, 'neutron'),
        'glance': {'region_name': settings.REGION},
        'vnc': {'enabled': 'false'},
        'oslo_concurrency': {'lock_path': str(conf.nova / 'lock')}}


def compute(conf: settings.Settings, choice: Compute,
            virt_type: str) -> Ini:
    """Return nova-compute.conf, all of nova-compute's configuration.

    Without a database, to which nova-compute must not connect. Nothing is
    reserved for the host and disks are overcommitted, as guests are sparse
    and the machine may be small.
    """
    sudo = '' if choice.user == ROOT else 'sudo '
    helper = {'helper_command': sudo + privsep_helper(conf)}
    ini = nova(conf)
    del ini['database'], ini['api_database']
    ini['DEFAULT'] |= {
        'compute_driver': DRIVERS[choice.driver],
        'instances_path': str(conf.instances),
        'reserved_host_memory_mb': '0', 'reserved_host_disk_mb': '0',
        'initial_disk_allocation_ratio': '16.0',
        'initial_cpu_allocation_ratio': '16.0',
        # The guest ignores the power button.
        'shutdown_timeout': '1'}
    ini['libvirt'] = {'virt_type': virt_type}
    if choice.rbd:
        ini['libvirt'] |= _rbd(conf)
    if choice.tls:
        ini['libvirt']['connection_uri'] = conf.libvirt_tls()
    for name in PRIVSEP:
        ini[name] = helper
    return _with(ini, choice.options)


def _rbd(conf: settings.Settings) -> dict[str, str]:
    """Return what makes Nova put disks on Ceph."""
    return {'images_type': 'rbd', 'images_rbd_pool': ceph.DISKS,
            'images_rbd_ceph_conf': str(conf.ceph_conf),
            'rbd_user': ceph.NOVA, 'rbd_secret_uuid': ceph.Ceph(conf).fsid}


def _policies(conf: settings.Settings) -> pathlib.Path:
    return conf.etc / 'glance/policy.yaml'


def _protections(conf: settings.Settings) -> pathlib.Path:
    return conf.etc / 'glance/property-protections.conf'


def write_glance(conf: settings.Settings, choice: Images) -> None:
    """Write glance-api.conf, its policies and who may set which property."""
    write(conf.etc / 'glance/glance-api.conf', glance(conf, choice))
    rules = [*dict.fromkeys(choice.protected, '!').items(), ('.*', '@')]
    write(_protections(conf), {
        name: {'create': who, 'read': '@', 'update': who, 'delete': who}
        for name, who in rules})
    _policies(conf).write_text(
        json.dumps(dict.fromkeys(choice.refused, '!')) + '\n')


def privsep_helper(conf: settings.Settings) -> str:
    """Return privsep's helper command, without context and socket."""
    return f'{conf.bin("privsep-helper")} --config-file {compute_file(conf)}'


def compute_file(conf: settings.Settings) -> pathlib.Path:
    return conf.etc / 'nova/nova-compute.conf'


FILES: dict[str, collections.abc.Callable[[settings.Settings], Ini]] = {
    'keystone/keystone.conf': keystone,
    'placement/placement.conf': placement,
    'neutron/neutron.conf': neutron,
    'nova/nova.conf': nova,
}

PASTE = {'glance/glance-api-paste.ini': 'glance/glance-api-paste.ini',
         'nova/api-paste.ini': 'nova/api-paste.ini'}


def write_all(conf: settings.Settings) -> None:
    """Write all files but nova-compute.conf, and copy the paste files."""
    for name, function in FILES.items():
        write(conf.etc / name, function(conf))
    write_glance(conf, Images())
    for name, source in PASTE.items():
        text = (conf.venv / 'etc' / source).read_text()
        (conf.etc / name).write_text(text)
    for name in ('glance/images', 'glance/staging', 'glance/tasks',
                 'glance/lock', 'neutron/lock', 'nova/lock'):
        (conf.root / name).mkdir(parents=True, exist_ok=True)
