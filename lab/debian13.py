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

"""Test the driver on Debian 13, in a folder of this machine.

debootstrap makes the folder once, and it is kept. Everything in it runs in
namespaces of its own: the machine's /dev, /run, /sys, libvirt and network stay
as they are, and nothing outlives the command.
"""

import os
import pathlib
import shutil
import subprocess
import sys

from lab.openstack import packages
from lab.openstack import process
from lab.openstack import settings
from lab.openstack import stack

RELEASE = 'trixie'
INCLUDED = ('python3', 'iproute2', 'ca-certificates')
MIRROR = 'http://deb.debian.org/debian'
# Marks a folder that debootstrap has completed.
MARKER = '.nova-snapdriver-debian'
CHECKOUT = '/checkout'
# The machine's own, which it may need to reach PyPI.
CERTIFICATES = '/usr/local/share/ca-certificates'
MODULE = 'lab.debian13'
NODES = ('null', 'zero', 'full', 'random', 'urandom', 'tty', 'fuse', 'kvm',
         'loop-control')
LOOPS = 64

# Its shell stays, as the first process: it reaps what QEMU and others leave,
# or libvirtd would wait for them.
ENTER = f'''
set -eu
root=$1 checkout=$2
shift 2
mount --make-rprivate /
mount --bind "$root" "$root"
cd "$root"
mount -t proc proc proc
mount -t sysfs -o ro sysfs sys
mount -t tmpfs -o mode=755 tmpfs run
mkdir -p run/lock .{CHECKOUT} old
mount --bind "$checkout" .{CHECKOUT}
mount -t tmpfs -o mode=755 tmpfs dev
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts
mount -t tmpfs tmpfs dev/shm
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
for node in {' '.join(NODES)}; do
    [ ! -e "/dev/$node" ] || cp -a "/dev/$node" dev/
done
for number in $(seq 0 {LOOPS - 1}); do
    mknod "dev/loop$number" b 7 "$number"
done
cp /etc/resolv.conf etc/
if [ -d {CERTIFICATES} ]; then
    mkdir -p .{CERTIFICATES}
    mount --bind {CERTIFICATES} .{CERTIFICATES}
fi
hostname debian13
pivot_root . old
umount -l /old
cd {CHECKOUT}
chgrp kvm /dev/kvm 2>/dev/null && chmod 660 /dev/kvm || true
ip link set lo up
"$@"
'''


def run(conf: settings.Settings, folder: pathlib.Path, demo: bool) -> int:
    """Have the folder; run unit and functional tests, or the demo, in it.

    :raises LabError: the folder is something else, or cannot be made
    """
    log = conf.log('debian13')
    make(folder, log)
    process.run(log, *entering(folder, conf.checkout, 'install', True),
                env=_environment())
    words = entering(folder, conf.checkout, 'demo' if demo else 'test', False)
    return subprocess.run(
        words, env={**settings.environment(), **_environment()}).returncode


def make(folder: pathlib.Path, log: pathlib.Path) -> None:
    """Install a minimal Debian where there is none yet."""
    if (folder / MARKER).exists():
        return
    if folder.exists() and any(folder.iterdir()):
        raise settings.LabError(f'{folder} is not empty, and no Debian that'
                                ' the lab has made')
    if shutil.which('debootstrap') is None:
        process.run(log, 'apt-get', 'update')
        process.run(log, 'apt-get', 'install', '-y', 'debootstrap')
    process.run(log, 'unshare', '--mount', 'debootstrap',
                '--variant=minbase', f'--include={",".join(INCLUDED)}',
                RELEASE, folder, MIRROR)
    (folder / MARKER).touch()


def entering(folder: pathlib.Path, checkout: pathlib.Path, action: str,
             network: bool) -> list[str]:
    """Return the command that does something in the folder.

    :param network: with the machine's; if not, with a loopback alone
    """
    apart = [] if network else ['--net']
    return ['unshare', '--mount', '--pid', '--ipc', '--uts', *apart, '--fork',
            '--kill-child', 'sh', '-c', ENTER, 'sh', str(folder),
            str(checkout), '/usr/bin/python3', '-m', MODULE, action]


def _environment() -> dict[str, str]:
    """Return what pbr needs: git may know nothing of the checkout there."""
    return {'PBR_VERSION': '0.0.0', 'DEBIAN_FRONTEND': 'noninteractive'}


# In the folder


def _install(conf: settings.Settings) -> int:
    process.run(conf.log('certificates'), 'update-ca-certificates')
    packages.install_system(conf)
    packages.install_venv(conf)
    return 0


def _pytest(conf: settings.Settings, folder: str) -> int:
    return subprocess.run(
        [conf.bin('python'), '-m', 'pytest', '-q', '-ra', '-n',
         str(os.cpu_count()), '--dist', 'loadfile', folder],
        env=settings.environment()).returncode


def _test(conf: settings.Settings) -> int:
    lab = stack.Stack(conf)
    lab.virtlogd.ensure()
    lab.libvirtd.ensure()
    # Apart: functional tests parse the options that unit tests register.
    return max(_pytest(conf, 'tests/unit'), _pytest(conf, 'tests/functional'))


def _demo(conf: settings.Settings) -> int:
    return subprocess.run(['./lab/run', 'demo']).returncode


ACTIONS = {'install': _install, 'test': _test, 'demo': _demo}

if __name__ == '__main__':
    sys.exit(ACTIONS[sys.argv[1]](settings.load()))
