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

"""Find calls of QEMU's programs that leave an image's format to be guessed.

QEMU would guess it from the image's first bytes, which a guest has written:
OSSA-2016-001 and its relatives.
"""

import ast
from collections.abc import Iterator
from collections.abc import Sequence
import pathlib
import re

QEMU_PROGRAMS = ('qemu-img', 'qemu-nbd', 'qemu-io', 'qemu-storage-daemon')
_ANY_FORMAT = ('-f', '--format', '--source-format')
# What has to be said in which case, one spelling of each; a subcommand that
# is not named here reads one image.
_FORMATS: dict[str, list[tuple[str, ...]]] = {
    'create': [('-f', '--format')],
    'convert': [_ANY_FORMAT, ('-O', '--target-format')],
    'compare': [_ANY_FORMAT, ('-F', '--compare-format')],
    'rebase': [_ANY_FORMAT, ('-F', '--backing-format')],
    'dd': [_ANY_FORMAT, ('-O', '--target-format')],
}
# Nova's functions that run qemu-img: how many arguments say all formats.
_NOVAS = {'qemu_img_info': 2, 'privileged_qemu_img_info': 2,
          'unprivileged_qemu_img_info': 2, 'convert_image': 4,
          'convert_image_unsafe': 99, 'fetch_to_raw': 99,
          'get_disk_backing_file': 3, 'get_disk_size': 2}
_UNKNOWN = '?'                          # stands for a word that is computed
_NO_FORMATS = ('', 'auto', 'probe', 'None')
_OPENS_NO_IMAGE = {'--version', '-V', '--help', '-h'}
_SUBCOMMANDS = ('amend', 'bench', 'bitmap', 'check', 'commit', 'compare',
                'convert', 'create', 'dd', 'info', 'map', 'measure', 'rebase',
                'resize', 'snapshot')
_SHELL = re.compile(
    rf'(?:^|[\s;&|(`"\'/])((?:{"|".join(QEMU_PROGRAMS)})\s+(?:-|(?:'
    rf'{"|".join(_SUBCOMMANDS)})\s).*)')

# A word of a command; None if the source does not tell it.
_Word = str | None
# The strings that a module gives names to, by name.
_Names = dict[str, str]


def guessed_in_python(tree: ast.Module) -> list[int]:
    """Lines of a module with a call that leaves a format to be guessed."""
    found = [line for line, words in _commands(tree)
             # A list of the programs' names calls none of them.
             if len(words) > 1 and not _is_program(words[1]) and
             not _says_formats(words)]
    for line, text in _strings(tree):
        found += guessed_in_shell(text, line)
    return found + list(_calls_of_nova(tree))


def guessed_in_shell(text: str, first_line: int = 1) -> list[int]:
    """Lines of a shell's script, as `guessed_in_python`."""
    return [number for number, line in enumerate(text.splitlines(), first_line)
            if (match := _SHELL.search(line)) and
            not _says_formats(match[1].split())]


def _text_of(node: ast.AST, names: _Names) -> _Word:
    """The constant part of an expression's text; None if it has none."""
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=parts):
            return ''.join(_text_of(part, names) or _UNKNOWN for part in parts)
        case ast.FormattedValue(value=value):
            return _text_of(value, names)
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return names.get(name)
        case ast.BinOp(left=left):
            return _text_of(left, names)
        case _:
            return None


def _constants(tree: ast.Module) -> _Names:
    """The strings that a module gives names to, and attributes."""
    found = {}
    for node in ast.walk(tree):
        match node:
            case ast.Assign(targets=targets,
                            value=ast.Constant(value=str(text))):
                found.update({_name_of(target): text for target in targets})
            case ast.AnnAssign(target=target,
                               value=ast.Constant(value=str(text))):
                found[_name_of(target)] = text
    return found


def _name_of(target: ast.expr) -> str:
    return str(getattr(target, 'id', getattr(target, 'attr', '')))


def _is_program(word: _Word) -> bool:
    return pathlib.PurePath(word or '').name in QEMU_PROGRAMS


def _from_program(words: list[_Word]) -> list[_Word]:
    """A command from the program on: sudo, prlimit and the like go before it.

    A program's name that is given twice is the second time its argument 0.
    """
    for at, word in enumerate(words):
        if _is_program(word):
            rest = words[at:]
            return rest[1:] if len(rest) > 2 and rest[1] == word else rest
    return []


def _words_of(node: ast.AST | None, names: _Names) -> list[_Word]:
    """The words of a list, or of several that are added up; [] if none."""
    match node:
        case ast.List(elts=elements) | ast.Tuple(elts=elements):
            return [_text_of(element, names) for element in elements]
        case ast.BinOp(left=left, right=right, op=ast.Add()):
            words = _words_of(left, names)
            return words and words + (_words_of(right, names) or [None])
        case ast.Call(args=elements) if len(elements) > 1:
            return [_text_of(element, names) for element in elements]
        case _:
            return []


def _commands(tree: ast.Module) -> Iterator[tuple[int, list[_Word]]]:
    """Yield what may be a call of a qemu program: line, words."""
    names = _constants(tree)
    parts = _parts_of_sums(tree, names)
    for node in ast.walk(tree):
        if id(node) in parts:
            continue
        if words := _from_program(_words_of(node, names)):
            yield getattr(node, 'lineno', 1), words


def _parts_of_sums(tree: ast.Module, names: _Names) -> set[int]:
    """Lists that are part of a command, which is looked at as a whole."""
    return {id(part) for node in ast.walk(tree)
            if isinstance(node, ast.BinOp) and _words_of(node, names)
            for part in ast.walk(node) if part is not node and
            isinstance(part, (ast.List, ast.Tuple, ast.BinOp))}


def _strings(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield the strings that a shell may be given: line, text."""
    names = _constants(tree)
    docstrings = _docstrings(tree)
    for node in ast.walk(tree):
        if isinstance(node, (ast.Constant, ast.JoinedStr)):
            text = _text_of(node, names)
            if text and text not in docstrings:
                yield node.lineno, text


def _docstrings(tree: ast.Module) -> set[str | None]:
    return {ast.get_docstring(node, clean=False) for node in ast.walk(tree)
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef))}


def _calls_of_nova(tree: ast.Module) -> Iterator[int]:
    """Yield the lines that have Nova look at an image without a format."""
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Attribute(attr=name) | ast.Name(id=name),
                          args=arguments, keywords=more) if (
                              name in _NOVAS and
                              len(arguments) + len(more) < _NOVAS[name]):
                yield node.lineno


def _says(options: tuple[str, ...], words: list[str]) -> bool:
    """Whether one of the options is given a format; the first one decides."""
    for word, following in zip(words, [*words[1:], '']):
        for option in options:
            value = _value(option, word, following)
            if value is not None:
                return value not in _NO_FORMATS
    return False


def _value(option: str, word: str, following: str) -> str | None:
    """What an option is given: -f x, -fx, --format=x; None if it is not it."""
    if word == option:
        return following
    if word.startswith(f'{option}='):
        return word.removeprefix(f'{option}=')
    if not option.startswith('--') and word.startswith(option):
        return word.removeprefix(option)
    return None


def _says_formats(command: Sequence[_Word]) -> bool:
    """Whether a call of a qemu program leaves no format to be guessed."""
    words = [_UNKNOWN if word is None else word for word in command]
    if _OPENS_NO_IMAGE.intersection(words[1:2]):
        return True
    if '--image-opts' in words:
        return any('driver=' in word for word in words)
    if words[0].endswith('qemu-nbd') and words[-1].startswith('json:'):
        return True             # capture/blockdev.py names each level's driver
    if words[0].endswith('qemu-storage-daemon'):
        return all('driver' in word for option, word in zip(words, words[1:])
                   if option == '--blockdev')
    return _says_each(words)


def _says_each(words: list[str]) -> bool:
    if not all(_says(options, words[1:])
               for options in _FORMATS.get(words[1], [_ANY_FORMAT])):
        return False
    has_backing = words[1] in ('create', 'convert') and (
        _says(('-b', '-B'), words[2:]))
    return not has_backing or _says(('-F',), words[2:])
