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

"""Build the guest: kernel, initramfs, and disks that it writes to.

It boots in seconds, even without KVM: the distribution's small kernel,
busybox, and QEMU's guest agent with its libraries.
"""

import hashlib
import os
import pathlib
import re
import shutil
import subprocess

from lab.openstack import process
from lab.openstack import settings

INIT = pathlib.Path(__file__).parent / 'guest-init.sh'
MODULES = ('virtio_pci', 'virtio_blk', 'virtio_console', 'crc32c_generic',
           'ext4')
AGENT = '/usr/sbin/qemu-ga'
COMMAND_LINE = 'console=ttyS0 root=/dev/vda quiet'

MI = 1 << 20
DISK_BYTES = 10 << 30
# Random, so that nothing compresses them: 1.1 GiB.
PAYLOAD_FILES = 11
PAYLOAD_FILE_BYTES = 102 * MI
# Of the small disk, for tests that take many images: 44 MiB. The guest reads
# 8 MiB of the first file.
SMALL_DISK_BYTES = 1 << 30
SMALL_PAYLOAD_FILE_BYTES = 11 * MI
SMALL_PAYLOAD_FILES = 4
# Seconds for a guest to report that it runs.
PROBE_TIMEOUT = 20


class Guest:
    """The guest's files, built once."""

    def __init__(self, conf: settings.Settings) -> None:
        self.folder = conf.root / 'guest'
        self.log = conf.log('guest')
        self.initramfs = self.folder / 'initramfs'
        self.disk = self.folder / 'disk.qcow2'
        self.small_disk = self.folder / 'small.qcow2'

    @property
    def kernel(self) -> pathlib.Path:
        """Return the newest kernel of the distribution's packages."""
        found = [path for path in pathlib.Path('/boot').glob('vmlinuz-*')
                 if self._modules(path).exists()]
        if not found:
            raise settings.LabError('there is no kernel in /boot')
        return max(found, key=lambda path: path.stat().st_mtime)

    @staticmethod
    def _modules(kernel: pathlib.Path) -> pathlib.Path:
        release = kernel.name.removeprefix('vmlinuz-')
        return pathlib.Path('/lib/modules') / release

    def version(self) -> str:
        """Return a hash of what the images are built from."""
        known = hashlib.sha256(INIT.read_bytes())
        known.update(pathlib.Path(__file__).read_bytes())
        known.update(self.kernel.name.encode())
        return known.hexdigest()[:12]

    def build(self) -> str:
        """Build the files, where they are missing or of another version."""
        stamp = self.folder / 'version'
        if stamp.exists() and stamp.read_text() == self.version():
            return 'there'
        settings.make_directory(self.folder)
        self._build_initramfs()
        self._build_disk(self.disk, DISK_BYTES, PAYLOAD_FILES,
                         PAYLOAD_FILE_BYTES)
        self._build_disk(self.small_disk, SMALL_DISK_BYTES,
                         SMALL_PAYLOAD_FILES, SMALL_PAYLOAD_FILE_BYTES)
        stamp.write_text(self.version())
        return ''

    def _build_initramfs(self) -> None:
        tree = self.folder / 'tree'
        shutil.rmtree(tree, ignore_errors=True)
        (tree / 'modules').mkdir(parents=True)
        shutil.copy(INIT, tree / 'init')
        for path in [AGENT, *_libraries(AGENT)]:
            _copy_into(tree, path)
        busybox = shutil.which('busybox') or '/bin/busybox'
        (tree / 'bin').mkdir()
        shutil.copy(busybox, tree / 'bin/busybox')
        shutil.copy(AGENT, tree / 'bin/qemu-ga')
        self._copy_modules(tree / 'modules')
        _pack(tree, self.initramfs)
        shutil.rmtree(tree)

    def _copy_modules(self, folder: pathlib.Path) -> None:
        release = self._modules(self.kernel).name
        order: list[str] = []
        for name in MODULES:
            for path in _module_files(name, release):
                plain = _copy_module(path, folder)
                if plain not in order:
                    order.append(plain)
        (folder / 'order').write_text('\n'.join(order) + '\n')

    def _build_disk(self, disk: pathlib.Path, size: int, files: int,
                    file_bytes: int) -> None:
        tree, raw = self.folder / 'root', self.folder / 'disk.raw'
        _write_payload(tree, files, file_bytes)
        raw.unlink(missing_ok=True)
        with open(raw, 'wb') as file:
            file.truncate(size)
        # No lazy initialization and a small journal, so that images which
        # are taken one after another have one size.
        process.run(
            self.log, 'mkfs.ext4', '-q', '-F', '-d', tree, '-J', 'size=8',
            '-E',
            'lazy_itable_init=0,lazy_journal_init=0,root_owner=0:0', raw)
        process.run(self.log, 'qemu-img', 'convert', '-f', 'raw', '-O',
                    'qcow2', raw, disk)
        raw.unlink()
        shutil.rmtree(tree)

    def runs_with(self, accelerator: str) -> bool:
        """Boot a guest with an accelerator; return whether it runs.

        /dev/kvm may exist and not work.
        """
        argv = ['timeout', str(PROBE_TIMEOUT), 'qemu-system-x86_64',
                '-accel', accelerator, '-m', '256', '-nodefaults',
                '-display', 'none', '-serial', 'stdio', '-no-reboot',
                '-kernel', str(self.kernel), '-initrd',
                str(self.initramfs), '-append', 'console=ttyS0 lab.probe']
        done = subprocess.run(argv, capture_output=True,
                              stdin=subprocess.DEVNULL)
        return b'probe ok' in done.stdout

    def virt_type(self, conf: settings.Settings) -> str:
        """Return [libvirt] virt_type: kvm where it works. Tried once."""
        stamp = conf.state / 'virt-type'
        if not stamp.exists():
            works = os.path.exists('/dev/kvm') and self.runs_with('kvm')
            stamp.write_text('kvm' if works else 'qemu')
        return stamp.read_text()


def _libraries(program: str) -> list[str]:
    """Return the libraries of a program, with the loader."""
    return re.findall(r'(/\S+) \(0x', process.output('ldd', program))


def _copy_into(tree: pathlib.Path, path: str) -> None:
    target = tree / path.lstrip('/')
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(path, target)


def _module_files(name: str, release: str) -> list[pathlib.Path]:
    """Return a module and its dependencies, in the order to load them."""
    text = process.output('modprobe', '--show-depends', '--set-version',
                          release, name)
    lines = [line.split() for line in text.splitlines()]
    return [pathlib.Path(words[1]) for words in lines
            if words[0] == 'insmod']


def _copy_module(path: pathlib.Path, folder: pathlib.Path) -> str:
    """Copy a module, decompressed; return its name.

    Debian's modules are plain, Ubuntu's are compressed by zstd.
    """
    unpack = {'.zst': ['zstd', '-dc'], '.xz': ['xz', '-dc']}
    packed = path.suffix in unpack
    name = path.stem if packed else path.name
    command = unpack.get(path.suffix, ['cat'])
    with open(folder / name, 'wb') as file:
        subprocess.run([*command, str(path)], stdout=file, check=True)
    return name


def _pack(tree: pathlib.Path, target: pathlib.Path) -> None:
    """Make a cpio archive, plain: emulated guests decompress slowly."""
    names = sorted(str(path.relative_to(tree)) for path in tree.rglob('*'))
    with open(target, 'wb') as file:
        subprocess.run(
            ['cpio', '--quiet', '-o', '-H', 'newc', '-D', str(tree)],
            input='\n'.join(names).encode(), stdout=file, check=True)


def _write_payload(tree: pathlib.Path, files: int,
                   file_bytes: int) -> None:
    """Fill a directory with random files and a list of their hashes.

    Every fourth is text: an image without any would not be compressed.
    """
    shutil.rmtree(tree, ignore_errors=True)
    (tree / 'payload').mkdir(parents=True)
    sums = []
    for number in range(files):
        name = f'payload/{number:02}'
        data = (os.urandom(file_bytes) if number % 4 else
                os.urandom(file_bytes // 2).hex().encode())
        (tree / name).write_bytes(data)
        sums.append(f'{hashlib.md5(data).hexdigest()}  {name}\n')
    (tree / 'payload.md5').write_text(''.join(sums))
