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

"""The command line of the stream process: what is declared, built and parsed.

Each field of :class:`Arguments` is one option, with its type, its default and
its help. nova-compute builds a command line from it, the process parses that,
and ``python -m nova_snapdriver.stream --help`` shows it.
"""

import argparse
from collections.abc import Collection
from collections.abc import Iterator
from collections.abc import Sequence
import dataclasses
import typing

from nova_snapdriver.stream import codec
from nova_snapdriver.stream import formats

NO_HASH = 'none'

# However busy the server seems meanwhile: one that sends a byte now and then
# is no better than one that is silent.
_STALL_SECONDS = 300


@dataclasses.dataclass(frozen=True)
class Option:
    """How a field is given on the command line.

    :param kind: type of its value; bool for a flag without one
    """

    help: str
    metavar: str | None = None
    kind: type = str
    choices: Collection[str] | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments:
    """What the stream process reads, and what it makes of it."""

    socket: typing.Annotated[str, Option(
        'unix socket of the NBD server', 'PATH')]
    export: typing.Annotated[str, Option(
        'name of the export', 'NAME')] = ''
    format: typing.Annotated[str, Option(
        'format of the image', choices=sorted(formats.FORMATS))]
    hash: typing.Annotated[str, Option(
        'hash of the image to compute, as hashlib names it, or "none"',
        'NAME')] = 'sha512'
    compression: typing.Annotated[str | None, Option(
        'compress the clusters of a qcow2 image',
        choices=sorted(codec.COMPRESSORS))] = None
    threads: typing.Annotated[int, Option(
        'number of threads that compress; 0 means one for each CPU',
        'NUMBER', int)] = 0
    place: typing.Annotated[int, Option(
        'place of the tables in the image, in clusters, instead of a '
        'prediction; 0 means an image of plain clusters', 'NUMBER', int)] = -1
    harder_from: typing.Annotated[int | None, Option(
        'number of the read from which on to compress harder', 'NUMBER',
        int)] = None
    stall_timeout: typing.Annotated[float, Option(
        'maximum time for a reply of the NBD server',
        'SECONDS', float)] = _STALL_SECONDS
    bandwidth: typing.Annotated[int, Option(
        'maximum read rate in bytes per second; 0 means unlimited',
        'BYTES', int)] = 0
    spool: typing.Annotated[str | None, Option(
        'run ahead of the reader of standard output once standard input is '
        'readable, with an unnamed file in this directory', 'PATH')] = None
    spool_limit: typing.Annotated[int, Option(
        'maximum size of that file; negative means a share of the free space',
        'BYTES', int)] = -1
    spool_reserve: typing.Annotated[int, Option(
        'free space to leave in the file system of that file',
        'BYTES', int)] = 0
    captured: typing.Annotated[int | None, Option(
        'write the process number there when the export has been read',
        'DESCRIPTOR', int)] = None
    rbd_pool: typing.Annotated[str, Option(
        'pool in Ceph to make the image in, instead of sending it',
        'NAME')] = ''
    rbd_image: typing.Annotated[str, Option(
        'name of the image in that pool', 'NAME')] = ''
    rbd_user: typing.Annotated[str, Option(
        'user of Ceph, without "client."', 'NAME')] = ''
    rbd_conf: typing.Annotated[str, Option(
        'ceph.conf', 'PATH')] = ''
    rbd_stall_timeout: typing.Annotated[float, Option(
        'maximum time for an answer of Ceph', 'SECONDS',
        float)] = _STALL_SECONDS
    rbd_verify: typing.Annotated[bool, Option(
        'read from Ceph what was written, and compare it',
        kind=bool)] = False


def build(arguments: Arguments) -> list[str]:
    """The command line that says this, without the program itself."""
    words: list[str] = []
    for field, option in _options():
        value = getattr(arguments, field.name)
        if value == field.default:
            continue
        words.append(_word(field))
        if option.kind is not bool:
            words.append(str(value))
    return words


def parse(words: Sequence[str] | None = None) -> Arguments:
    """What a command line says; ``sys.argv`` if it is not given.

    :raises SystemExit: it asks for help, or cannot be understood
    """
    parser = argparse.ArgumentParser(prog='python -m nova_snapdriver.stream')
    for field, option in _options():
        _declare(parser, field, option)
    return Arguments(**vars(parser.parse_args(words)))


def _options() -> Iterator[tuple['dataclasses.Field[typing.Any]', Option]]:
    hints = typing.get_type_hints(Arguments, include_extras=True)
    for field in dataclasses.fields(Arguments):
        yield field, hints[field.name].__metadata__[0]


def _word(field: 'dataclasses.Field[typing.Any]') -> str:
    return '--' + field.name.replace('_', '-')


def _declare(parser: argparse.ArgumentParser,
             field: 'dataclasses.Field[typing.Any]', option: Option) -> None:
    if option.kind is bool:
        parser.add_argument(_word(field), help=option.help,
                            action='store_true')
        return
    parser.add_argument(
        _word(field), help=option.help, metavar=option.metavar,
        type=option.kind, choices=option.choices, default=field.default,
        required=field.default is dataclasses.MISSING)
