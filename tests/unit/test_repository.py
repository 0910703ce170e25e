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
QEMU_PROGRAMS = ('qemu-img', 'qemu-nbd', 'qemu-io')
ANY_FORMAT = ('-f', '--format', '--source-format')
# What has to be said in which case, one spelling of each; a subcommand that
# is not named here reads one image.
FORMATS = {
    'create': [('-f', '--format')],
    'convert': [ANY_FORMAT, ('-O', '--target-format')],
    'compare': [ANY_FORMAT, ('-F', '--compare-format')],
    'rebase': [ANY_FORMAT, ('-F', '--backing-format')],
}
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
            return ''.join(text_of(part, names) or '' for part in parts)
        case ast.Name(id=name):
            return names.get(name)
        case ast.BinOp(left=left):
            return text_of(left, names)
        case _:
            return None


def constants(tree):
    """The strings that a module gives names to."""
    return {target.id: node.value.value
            for node in ast.walk(tree)
            if isinstance(node, ast.Assign) and
            isinstance(node.value, ast.Constant) and
            isinstance(node.value.value, str)
            for target in node.targets if isinstance(target, ast.Name)}


def commands(tree):
    """Yield what may be a call of a qemu program: line, words."""
    names = constants(tree)
    for node in ast.walk(tree):
        match node:
            case ast.List(elts=elements) | ast.Tuple(elts=elements):
                pass
            case ast.Call(args=elements) if len(elements) > 1:
                pass
            case _:
                continue
        words = [text_of(element, names) for element in elements]
        if words and pathlib.Path(words[0] or '').name in QEMU_PROGRAMS:
            yield node.lineno, words


def shell_commands(tree):
    """Yield the strings that call a qemu program with arguments."""
    pattern = re.compile(rf'({"|".join(QEMU_PROGRAMS)})\s+(-|[a-z]+\s)')
    docstrings = {ast.get_docstring(node, clean=False)
                  for node in ast.walk(tree)
                  if isinstance(node, (ast.Module, ast.ClassDef,
                                       ast.FunctionDef))}
    for node in ast.walk(tree):
        match node:
            case ast.Constant(value=str(text)) if (
                    text not in docstrings and pattern.match(text)):
                yield node.lineno, text.split()


def says(options, words):
    """Whether one of the options is given: -f x, -fx, --format=x."""
    return any(word == option or
               (word.startswith(option) and not option.startswith('--')) or
               word.startswith(f'{option}=')
               for word in words for option in options)


def names_formats(words):
    """Whether a call of a qemu program leaves no format to be guessed."""
    words = [word or '' for word in words]
    if OPENS_NO_IMAGE.intersection(words[1:2]):
        return True
    if '--image-opts' in words:
        return any('driver=' in word for word in words)
    if not all(says(options, words[1:])
               for options in FORMATS.get(words[1], [ANY_FORMAT])):
        return False
    has_backing = words[1] == 'create' and says(['-b'], words[2:])
    return not has_backing or says(['-F'], words[2:])


def unsafe_calls(tree):
    """The lines with a qemu program that would have to guess a format."""
    found = [*commands(tree), *shell_commands(tree)]
    # A list of the programs' names calls none of them.
    return [line for line, words in found
            if len(words) > 1 and words[1] not in QEMU_PROGRAMS and
            not names_formats(words)]


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
