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

"""Show libvirtd a /dev/kvm that does not slow it down.

On a machine that has restarted without udev, /dev/kvm is 0600 root:root. If
QEMU's user cannot open it, libvirt 9 takes its cached capabilities for stale
and starts QEMU to probe them anew at each call that needs them: `virsh
version` takes 4 s. So libvirtd gets a mount namespace in which another node
covers it. The machine's own /dev stays as it is.
"""

import contextlib
import os
import pathlib
import stat
import subprocess

from lab.openstack import process
from lab.openstack import settings

DEVICE = pathlib.Path('/dev/kvm')
# Debian's and Ubuntu's, in /etc/libvirt/qemu.conf by default.
USER, GROUP = 'libvirt-qemu', 'kvm'
# Where the tests mount file systems that QEMU has to see.
TESTS = pathlib.Path('/var/tmp')
SCRIPT = 'mount --bind "$0" /dev/kvm && exec "$@"'


def is_slow() -> bool:
    """Return whether it is there and QEMU's user cannot open it."""
    return DEVICE.exists() and subprocess.run(
        ['setpriv', f'--reuid={USER}', f'--regid={GROUP}', '--init-groups',
         'test', '-r', DEVICE, '-a', '-w', DEVICE]).returncode != 0


def covered(conf: settings.Settings, argv: list[str]) -> list[str]:
    """Return a command that runs another where /dev/kvm is covered."""
    return ['unshare', '--mount', '--propagation', 'slave', 'sh', '-c',
            SCRIPT, str(node(conf)), *argv]


def prepare(conf: settings.Settings) -> None:
    """Make the node, and have later mounts show up in the namespace."""
    cover = node(conf)
    cover.unlink(missing_ok=True)
    try:
        _make_node(cover)
    except OSError:
        # No device nodes here: without access, libvirt does without KVM.
        cover.unlink(missing_ok=True)
        cover.touch(mode=0)
    for path in (conf.root, TESTS):
        _share(conf, path)


def node(conf: settings.Settings) -> pathlib.Path:
    """Return the node that covers it, where that is needed."""
    return conf.state / 'kvm'


def _make_node(path: pathlib.Path) -> None:
    """Make what udev would make.

    :raises OSError: nodes cannot be made or not be opened here
    """
    os.mknod(path, stat.S_IFCHR, DEVICE.stat().st_rdev)
    process.output('chown', f'root:{GROUP}', path)
    path.chmod(0o660)
    os.close(os.open(path, os.O_RDWR))


def _share(conf: settings.Settings, path: pathlib.Path) -> None:
    """Have mounts below a directory propagate, as systemd has it."""
    target, propagation = process.output(
        'findmnt', '-n', '-o', 'TARGET,PROPAGATION', '--target',
        path).split()
    if 'shared' not in propagation:
        process.output('mount', '--make-shared', target)
        with open(_shared(conf), 'a') as stamp:
            stamp.write(f'{target}\n')


def _shared(conf: settings.Settings) -> pathlib.Path:
    """Return the file that names the mounts which the lab has shared."""
    return conf.state / 'shared-mounts'


def restore(conf: settings.Settings) -> None:
    """Make mounts private again which the lab has shared."""
    stamp = _shared(conf)
    for target in stamp.read_text().split() if stamp.exists() else ():
        with contextlib.suppress(settings.LabError):
            process.output('mount', '--make-private', target)
    stamp.unlink(missing_ok=True)
