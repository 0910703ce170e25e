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

"""Prepare an account that runs nova-compute, as operators have it.

nova-compute makes single calls as root by oslo.privsep, whose helper it may
start with sudo, and connects to libvirt as a member of a group.
"""

import os
import pathlib
import pwd
import shutil

from lab.openstack import config
from lab.openstack import process
from lab.openstack import settings

SUDOERS = pathlib.Path('/etc/sudoers.d/nova-snapdriver-lab')
GROUPS = 'libvirt,kvm'
# privsep's contexts, of the groups of options in config.PRIVSEP.
CONTEXTS = ('nova.privsep.sys_admin_pctxt', 'os_brick.privileged.default',
            'vif_plug_ovs.privsep.vif_plug',
            'vif_plug_linux_bridge.privsep.vif_plug')
PACKAGE = 'nova_snapdriver'


def prepare(conf: settings.Settings, user: str) -> None:
    """Have an account that can run nova-compute, and nothing as root."""
    _make_user(conf, user)
    _write_sudoers(conf, user)
    _copy_code(conf)
    known = pwd.getpwnam(user)
    for folder in (conf.nova, conf.instances):
        _give(folder, known.pw_uid, known.pw_gid)
    # Root owns it, as it decides what the helper runs as root.
    file = config.compute_file(conf)
    os.chown(file, 0, known.pw_gid)
    file.chmod(0o640)


def code(conf: settings.Settings) -> pathlib.Path:
    """Return what has to be in PYTHONPATH."""
    return conf.root / 'code'


def remove(conf: settings.Settings) -> None:
    """Remove sudo's rules, and the account if the lab has made it."""
    SUDOERS.unlink(missing_ok=True)
    stamp = _stamp(conf)
    if stamp.exists():
        process.run(conf.log('user'), 'userdel', stamp.read_text())
        stamp.unlink()


def _stamp(conf: settings.Settings) -> pathlib.Path:
    return conf.state / 'made-user'


def _make_user(conf: settings.Settings, user: str) -> None:
    try:
        pwd.getpwnam(user)
    except KeyError:
        # First, so that `down` removes what an interrupted run has made.
        _stamp(conf).write_text(user)
        process.run(conf.log('user'), 'useradd', '--system', '--user-group',
                    '--no-create-home', '--home-dir', conf.nova,
                    '--shell', '/usr/sbin/nologin', user)
    process.run(conf.log('user'), 'usermod', '-a', '-G', GROUPS, user)


def _write_sudoers(conf: settings.Settings, user: str) -> None:
    """Allow the helper, with the lab's configuration and Nova's contexts.

    Checked first: sudo refuses everything if it cannot parse a file.
    """
    lines = [f'Defaults:{user} !requiretty']
    lines += [f'{user} ALL=(root) NOPASSWD: {config.privsep_helper(conf)}'
              f' --privsep_context {context} --privsep_sock_path *'
              for context in CONTEXTS]
    new = conf.etc / 'sudoers'
    new.write_text('\n'.join(lines) + '\n')
    process.run(conf.log('user'), 'visudo', '-c', '-f', new)
    SUDOERS.touch(mode=0o440)
    SUDOERS.write_text(new.read_text())


def _copy_code(conf: settings.Settings) -> None:
    shutil.rmtree(code(conf), ignore_errors=True)
    shutil.copytree(conf.checkout / PACKAGE, code(conf) / PACKAGE,
                    ignore=shutil.ignore_patterns('__pycache__'))


def _give(folder: pathlib.Path, uid: int, gid: int) -> None:
    """Change the owner of what is root's; QEMU's files stay its own."""
    for parent, names, files in os.walk(folder):
        for path in (parent, *(os.path.join(parent, name)
                               for name in (*names, *files))):
            if os.lstat(path).st_uid == 0:
                os.lchown(path, uid, gid)
