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

import ast

import pytest

from nova_snapdriver.hacking import formats


@pytest.mark.parametrize('text', [
    "run('qemu-img', 'info', path)",
    "run(['qemu-img', 'info', '--output=json', path])",
    "run(['/usr/bin/qemu-img', 'check', path])",
    "run(['qemu-img', *arguments])",
    "run(('qemu-nbd', '--read-only', path))",
    "run(['qemu-img', 'convert', '-f', 'raw', a, b])",
    "run(['qemu-img', 'convert', '-O', 'raw', a, b])",
    "run(['qemu-img', 'compare', '-f', 'raw', a, b])",
    "run(['qemu-img', 'create', '-f', 'qcow2', '-b', a, b])",
    "run(['qemu-img', 'create', a, '1G'])",
    "run(['qemu-img', 'info', '--image-opts', 'file.filename=a'])",
    "run(['qemu-io', '-c', 'read 0 1', a])",
    "TOOL = 'qemu-img'\nrun([TOOL, 'info', a])",
    "run('qemu-img info %s' % path, shell=True)",
    "run(f'qemu-img info {path}', shell=True)",
    # Not as the first word.
    "run(['prlimit', '--as=1', 'qemu-img', 'info', a])",
    "run('sudo', '-n', '/usr/bin/qemu-img', 'check', a)",
    "os.execlp('qemu-img', 'qemu-img', 'info', a)",
    "run('cd /x && qemu-img info a', shell=True)",
    "run('sh', '-c', 'x=$(qemu-img info a)')",
    "run(f'{sudo} qemu-img convert -O raw {a} {b}', shell=True)",
    "TOOL = 'qemu-img'\nrun(f'{TOOL} info {a}', shell=True)",
    # By another name.
    "TOOL: str = '/usr/bin/qemu-img'\nrun([TOOL, 'info', a])",
    "class A:\n    TOOL = 'qemu-img'\n    def f(s): run([s.TOOL, 'info', a])",
    # Put together.
    "run(['qemu-img', 'info'] + [a])",
    "run(['qemu-img'] + ['convert', '-f', 'raw'] + [a, b])",
    # A format that is none.
    "run(['qemu-img', 'info', '-f', '', a])",
    "run(['qemu-nbd', '--format=', a])",
    "run(['qemu-img', 'dd', '-f', 'raw', 'if=a', 'of=b'])",
    "run(['qemu-img', 'convert', '-f', 'raw', '-O', 'qcow2', '-B', a, b, c])",
    "run(['qemu-img', 'measure', '-O', 'qcow2', a])",
    "run(['qemu-img', 'rebase', '-f', 'qcow2', '-b', a, b])",
    "run(['qemu-storage-daemon', '--blockdev', 'filename=a'])",
    # By Nova.
    "images.qemu_img_info(path)",
    "nova.privsep.qemu.privileged_qemu_img_info(path)",
    "images.convert_image_unsafe(a, b, 'raw')",
    "libvirt_utils.get_disk_backing_file(path, basename=False)",
])
def test_format_is_guessed(text):
    assert formats.guessed_in_python(ast.parse(text))


@pytest.mark.parametrize('text', [
    "run(['qemu-img', '--version'])",
    "run(['qemu-img', 'info', '-f', 'raw', a])",
    "run('qemu-img', 'info', '-f', disk_format, a)",
    "run(['qemu-img', 'check', '-fqcow2', a])",
    "run(['qemu-img', 'create', '-f', 'qcow2', a, '1G'])",
    "run(['qemu-img', 'create', '-f', 'qcow2', '-b', a, '-F', 'raw', b])",
    "run(['qemu-img', 'convert', '-f', 'raw', '-O', 'qcow2', a, b])",
    "run(['qemu-img', 'compare', '-f', 'raw', '-F', 'qcow2', a, b])",
    "run(['qemu-img', 'info', '--image-opts', f'driver=raw,file={a}'])",
    "run(['qemu-nbd', '--format=raw', '--read-only', a])",
    "run(['qemu-nbd', f'--format={disk_format}', a])",
    "shutil.which('qemu-nbd')",
    "run(['prlimit', '--as=1', 'qemu-nbd', '--', 'json:' + description])",
    "run(['qemu-img', 'info'] + ['-f', 'raw', a])",
    "TOOL = 'qemu-img'\nrun(f'{TOOL} info -f raw {a}', shell=True)",
    "nova.privsep.qemu.privileged_qemu_img_info(path, 'qcow2')",
    "run('cd /x && qemu-img info -f raw a', shell=True)",
    "PROGRAMS = ('qemu-img', 'qemu-nbd')",
    "missing.append('qemu-nbd (package qemu-utils)')",
    "def f():\n    'qemu-img info probes, so we do not.'\n",
])
def test_format_is_told(text):
    assert not formats.guessed_in_python(ast.parse(text))


def test_lines_of_a_script():
    script = 'set -e\nqemu-img info -f raw a\nqemu-img info a\n'
    assert formats.guessed_in_shell(script) == [3]
