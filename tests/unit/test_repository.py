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

"""Rules for the repository that no tool knows."""

import ast
import pathlib
import re

from oslo_config import cfg
import pytest

from nova_snapdriver import conf

ROOT = pathlib.Path(__file__).parents[2]
QEMU_PROGRAMS = ('qemu-img', 'qemu-nbd', 'qemu-io', 'qemu-storage-daemon')
ANY_FORMAT = ('-f', '--format', '--source-format')
# What has to be said in which case, one spelling of each; a subcommand that
# is not named here reads one image.
FORMATS = {
    'create': [('-f', '--format')],
    'convert': [ANY_FORMAT, ('-O', '--target-format')],
    'compare': [ANY_FORMAT, ('-F', '--compare-format')],
    'rebase': [ANY_FORMAT, ('-F', '--backing-format')],
    'dd': [ANY_FORMAT, ('-O', '--target-format')],
}
# Functions of Nova's that run qemu-img: how many arguments say all formats.
NOVAS = {'qemu_img_info': 2, 'privileged_qemu_img_info': 2,
         'unprivileged_qemu_img_info': 2, 'convert_image': 4,
         'convert_image_unsafe': 99, 'fetch_to_raw': 99,
         'get_disk_backing_file': 3, 'get_disk_size': 2}
UNKNOWN = '?'                           # of some word, in an f-string
NO_FORMATS = ('', 'auto', 'probe', 'None')
OPENS_NO_IMAGE = {'--version', '-V', '--help', '-h'}
UNITS = re.compile(r'\b(seconds|bytes|[KMG]iB|percent)\b')


def sources(*directories):
    """Yield every Python file, with its syntax tree."""
    for directory in directories:
        for path in sorted((ROOT / directory).rglob('*.py')):
            yield path, ast.parse(path.read_text(), str(path))


def text_of(node, names):
    """The constant part of an expression's text; None if it has none."""
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=parts):
            return ''.join(text_of(part, names) or UNKNOWN for part in parts)
        case ast.FormattedValue(value=value):
            return text_of(value, names)
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return names.get(name)
        case ast.BinOp(left=left):
            return text_of(left, names)
        case _:
            return None


def constants(tree):
    """The strings that a module gives names to, and attributes."""
    found = {}
    for node in ast.walk(tree):
        match node:
            case ast.Assign(targets=targets,
                            value=ast.Constant(value=str(text))):
                pass
            case ast.AnnAssign(target=target,
                               value=ast.Constant(value=str(text))):
                targets = [target]
            case _:
                continue
        for target in targets:
            name = getattr(target, 'id', getattr(target, 'attr', None))
            found[name] = text
    return found


def is_program(word):
    return pathlib.PurePath(word or '').name in QEMU_PROGRAMS


def from_program(words):
    """A command from the program on: sudo, prlimit and the like go before it.

    A program's name that is given twice is the second time its argument 0.
    """
    for at, word in enumerate(words):
        if is_program(word):
            rest = words[at:]
            return rest[1:] if len(rest) > 2 and rest[1] == word else rest
    return []


def elements_of(node, names):
    """The words of a list, or of several that are added up; none if none."""
    match node:
        case ast.List(elts=elements) | ast.Tuple(elts=elements):
            return [text_of(element, names) for element in elements]
        case ast.BinOp(left=left, right=right, op=ast.Add()):
            words = elements_of(left, names)
            return words and words + (elements_of(right, names) or [None])
        case ast.Call(args=elements) if len(elements) > 1:
            return [text_of(element, names) for element in elements]
        case _:
            return None


def commands(tree):
    """Yield what may be a call of a qemu program: line, words."""
    names = constants(tree)
    added = {id(part) for node in ast.walk(tree)
             if isinstance(node, ast.BinOp) and elements_of(node, names)
             for part in ast.walk(node) if part is not node}
    for node in ast.walk(tree):
        # Part of a command that was looked at as a whole.
        if id(node) in added and isinstance(node, (ast.List, ast.Tuple,
                                                   ast.BinOp)):
            continue
        words = from_program(elements_of(node, names) or [])
        if words:
            yield node.lineno, words


SUBCOMMANDS = ('amend', 'bench', 'bitmap', 'check', 'commit', 'compare',
               'convert', 'create', 'dd', 'info', 'map', 'measure', 'rebase',
               'resize', 'snapshot')
SHELL = re.compile(
    rf'(?:^|[\s;&|(`"\'/])((?:{"|".join(QEMU_PROGRAMS)})\s+(?:-|(?:'
    rf'{"|".join(SUBCOMMANDS)})\s).*)')


def shell_commands(tree):
    """Yield the strings that call a qemu program with arguments."""
    names = constants(tree)
    docstrings = {ast.get_docstring(node, clean=False)
                  for node in ast.walk(tree)
                  if isinstance(node, (ast.Module, ast.ClassDef,
                                       ast.FunctionDef))}
    for node in ast.walk(tree):
        match node:
            case ast.Constant(value=str(text)):
                pass
            case ast.JoinedStr(values=parts):
                text = ''.join(text_of(part, names) or UNKNOWN
                               for part in parts)
            case _:
                continue
        if text not in docstrings:
            yield from in_shell(node.lineno, text)


def in_shell(line, text):
    for number, one in enumerate(text.splitlines()):
        if (match := SHELL.search(one)):
            yield line + number, match[1].split()


def novas(tree):
    """Yield the lines that have Nova look at an image without a format."""
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Attribute(attr=name) | ast.Name(id=name),
                          args=arguments, keywords=more) if (
                              name in NOVAS and
                              len(arguments) + len(more) < NOVAS[name]):
                yield node.lineno


def says(options, words):
    """Whether one of the options is given, with a value: -f x, --format=x."""
    for word, value in zip(words, [*words[1:], '']):
        for option in options:
            if word == option:
                return value not in NO_FORMATS
            if word.startswith(f'{option}='):
                return word.removeprefix(f'{option}=') not in NO_FORMATS
            if not option.startswith('--') and word.startswith(option):
                return True
    return False


def names_formats(words):
    """Whether a call of a qemu program leaves no format to be guessed."""
    # What is not known is a value.
    words = [UNKNOWN if word is None else word for word in words]
    if OPENS_NO_IMAGE.intersection(words[1:2]):
        return True
    if '--image-opts' in words:
        return any('driver=' in word for word in words)
    if words[0].endswith('qemu-nbd') and words[-1].startswith('json:'):
        return True             # has a driver at each level: test_nodes.py
    if words[0].endswith('qemu-storage-daemon'):
        return all('driver' in word for option, word in zip(words, words[1:])
                   if option == '--blockdev')
    if not all(says(options, words[1:])
               for options in FORMATS.get(words[1], [ANY_FORMAT])):
        return False
    has_backing = words[1] in ('create', 'convert') and (
        says(['-b', '-B'], words[2:]))
    return not has_backing or says(['-F'], words[2:])


def unsafe_calls(tree):
    """The lines with a qemu program that would have to guess a format."""
    found = [line for line, words in commands(tree)
             # A list of the programs' names calls none of them.
             if len(words) > 1 and not is_program(words[1]) and
             not names_formats(words)]
    found += [line for line, words in shell_commands(tree)
              if not names_formats(words)]
    return found + list(novas(tree))


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
def test_guard_sees_unsafe_calls(text):
    assert unsafe_calls(ast.parse(text))


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
def test_guard_accepts_safe_calls(text):
    assert not unsafe_calls(ast.parse(text))


def test_qemu_programs_are_told_the_format():
    found = [f'{path}:{line}'
             for path, tree in sources('nova_snapdriver', 'lab')
             for line in unsafe_calls(tree)]
    assert not found


def scripts():
    """The files that a shell runs."""
    return [path for folder in ('lab', '.ci', 'etc', 'tests')
            for path in (ROOT / folder).rglob('*')
            if path.is_file() and path.suffix in ('', '.sh')]


def test_scripts_tell_qemu_programs_the_format():
    assert ROOT / 'lab' / 'run' in scripts()
    found = [f'{path}:{line}' for path in scripts()
             for line, words in in_shell(1, path.read_text())
             if not names_formats(words)]
    assert not found


def imported(tree):
    """The top-level packages that a module imports."""
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                yield from (name.name.split('.')[0] for name in names)
            case ast.ImportFrom(module=str(module), level=0):
                yield module.split('.')[0]


def test_no_asyncio_and_no_eventlet():
    """nova-compute runs with native threads, too, and is to end up there."""
    found = [str(path) for path, tree in sources('nova_snapdriver')
             if {'asyncio', 'eventlet'}.intersection(imported(tree))]
    assert not found


def test_no_nova_directory():
    """A namespace package there would hide parts of an editable Nova."""
    assert not (ROOT / 'nova').exists()
    assert not (ROOT / 'nova_snapdriver' / 'nova').exists()


def options():
    return [pytest.param(option, id=option.name)
            for _, group in conf.list_opts() for option in group]


@pytest.mark.parametrize('option', options())
def test_option_is_documented(option):
    assert option.help and option.help.strip()
    if isinstance(option.type, (cfg.types.Integer, cfg.types.Float)):
        assert UNITS.search(option.help), 'its unit is not in its help'
