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

"""DevStack's plugin, with DevStack's functions as a script that notes them."""

import pathlib
import re
import subprocess

import pytest
import yaml

ROOT = pathlib.Path(__file__).parents[2]
# What the plugin calls, each noted with its arguments.
DEVSTACK = """
set -eu
for name in install_package setup_develop iniset sudo define_plugin \\
        nova-snapdriver; do
    eval "$name() { echo $name \\"\\$@\\"; }"
done
die() { shift; echo "died: $*"; exit 1; }
is_service_enabled() { [[ " $SERVICES " == *" $1 "* ]]; }
is_ubuntu() { [[ $DISTRO == ubuntu ]]; }
is_fedora() { [[ $DISTRO == fedora ]]; }
DEST=/opt/stack
NOVA_CONF=/etc/nova/nova.conf
NOVA_INSTANCES_PATH=/opt/stack/data/nova/instances
NOVA_BIN_DIR=$BIN
source $PLUGIN/override-defaults
source $PLUGIN/settings
source $PLUGIN/plugin.sh "$@"
"""


@pytest.fixture
def devstack(tmp_path):
    command = tmp_path / 'nova-snapdriver'
    command.write_text('#!/bin/sh\necho nova-snapdriver "$@"\n')
    command.chmod(0o755)

    def run(*words, status=0, **settings):
        env = {'PATH': '/usr/bin:/bin', 'PLUGIN': str(ROOT / 'devstack'),
               'BIN': str(tmp_path), 'SERVICES': 'n-api n-cpu',
               'DISTRO': 'ubuntu', 'VIRT_DRIVER': 'libvirt', **settings}
        done = subprocess.run(
            ['bash', '-c', DEVSTACK, 'stack.sh', *words], env=env, text=True,
            capture_output=True)
        assert done.returncode == status, done.stderr
        assert not done.stderr
        first, *called = done.stdout.splitlines()
        assert first == 'define_plugin nova-snapdriver'
        return called

    return run


@pytest.mark.parametrize(('distro', 'packages'), (
    ('ubuntu', 'python3-libnbd qemu-utils'),
    ('fedora', 'python3-libnbd qemu-img')))
def test_packages(devstack, distro, packages):
    assert devstack('stack', 'pre-install', DISTRO=distro) == [
        f'install_package {packages}']


def test_packages_are_those_of_bindep(devstack):
    [called] = devstack('stack', 'pre-install')
    listed = (ROOT / 'bindep.txt').read_text()
    for package in called.split()[1:]:
        assert re.search(rf'^{package} \[platform:dpkg\]$', listed, re.M)


def test_unknown_distribution(devstack):
    assert 'libnbd' in devstack('stack', 'pre-install', DISTRO='gentoo',
                                status=1)[0]


def test_install(devstack):
    assert devstack('stack', 'install') == [
        'setup_develop /opt/stack/nova-snapdriver',
        'nova-snapdriver register']


def test_configuration(devstack):
    called = devstack('stack', 'post-config',
                      SNAPDRIVER_OPTIONS='compression=zstd verify=size')
    conf = '/etc/nova/nova.conf'
    assert called[:3] == [
        f'iniset {conf} DEFAULT compute_driver snapdriver.SnapDriver',
        f'iniset {conf} snapdriver compression zstd',
        f'iniset {conf} snapdriver verify size']
    assert called[3] == 'sudo chmod o+x /opt/stack/data/nova/instances'
    assert called[-2:] == ['sudo chmod o+x /opt',
                           'nova-snapdriver register --check']


def test_clean(devstack):
    assert devstack('clean') == ['nova-snapdriver register --remove']


@pytest.mark.parametrize('words', (
    ('stack', 'extra'), ('stack', 'test-config'), ('unstack',)))
def test_nothing_else(devstack, words):
    assert devstack(*words) == []


def test_no_nova_compute_on_this_machine(devstack):
    assert devstack('stack', 'install', SERVICES='n-api') == []


def test_another_hypervisor(devstack):
    assert 'fake' in devstack('stack', 'install', VIRT_DRIVER='fake',
                              status=1)[0]


def test_zuul_names_what_there_is():
    """Zuul itself would say no more than that it cannot read the file."""
    items = yaml.safe_load((ROOT / '.zuul.yaml').read_text())
    jobs = {item['job']['name']: item['job'] for item in items
            if 'job' in item}
    [project] = [item['project'] for item in items if 'project' in item]
    names = {name for queue in project.values() for job in queue['jobs']
             for name in ([job] if isinstance(job, str) else job)}
    assert set(jobs) == {name for name in names
                         if name.startswith('nova-snapdriver')}
    tempest = jobs['nova-snapdriver-tempest']['vars']
    assert list(tempest['devstack_plugins']) == ['nova-snapdriver']
    re.compile(tempest['tempest_test_regex'])
