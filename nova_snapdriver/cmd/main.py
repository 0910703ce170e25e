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

"""The command nova-snapdriver."""

import argparse
from collections.abc import Sequence
import importlib
from importlib import metadata
import sys
import typing
import warnings

from nova_snapdriver.cmd import base

# A subcommand is the module of its name in nova_snapdriver.cmd. Only the one
# that was asked for is imported: "register" has to explain that nova is
# missing, where the others could not even be imported.
COMMANDS = {
    'register': 'let Nova find the driver',
    'check': 'check this host and nova.conf',
    'list': 'show running and abandoned snapshots',
    'recover': 'undo what a crash of nova-compute, or of snapshot, left',
    'snapshot': 'take a snapshot of a libvirt domain into a file, or Glance',
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand and return its exit status.

    :param argv: the arguments without the program's name; sys.argv's if None.
    """
    # Of a library's; nothing that an operator could do about.
    warnings.filterwarnings('ignore', r'\s*Eventlet is deprecated')
    try:
        return _run(argv)
    except base.CommandError as error:
        print(f'nova-snapdriver: {error}', file=sys.stderr)
    except KeyboardInterrupt:
        print('nova-snapdriver: interrupted, what was not done is still noted',
              file=sys.stderr)
    return 1


def _run(argv: Sequence[str] | None) -> int:
    chosen = _parser().parse_args(argv)
    command = _load(chosen.command)
    args = _parser_of(chosen.command, command).parse_args(chosen.arguments)
    return command.run(args)


def parser_of(name: str) -> argparse.ArgumentParser:
    """Return the parser of a command's arguments; the manual is made of it.

    :raises CommandError: this interpreter lacks what the command imports
    """
    return _parser_of(name, _load(name))


def _parser_of(name: str, command: base.Command) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f'nova-snapdriver {name}',
        description=(command.__doc__ or '').splitlines()[0])
    command.add_arguments(parser)
    return parser


def _parser() -> argparse.ArgumentParser:
    summary = '\n'.join(f'  {name:12}{text}'
                        for name, text in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog='nova-snapdriver',
        description='Look after the snapshot driver of a compute host.',
        epilog=f'commands:\n{summary}\n\n'
               'nova-snapdriver COMMAND --help describes each.',
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--version', action=_Version)
    parser.add_argument('command', choices=COMMANDS, metavar='COMMAND',
                        help='one of the commands below')
    parser.add_argument('arguments', nargs=argparse.REMAINDER,
                        metavar='...', help="the command's own arguments")
    return parser


class _Version(argparse.Action):
    """Look the version up only when it is asked for."""

    def __init__(self, option_strings: Sequence[str], dest: str) -> None:
        super().__init__(option_strings, dest, nargs=0,
                         help='print the version and exit')

    def __call__(self, parser: argparse.ArgumentParser,
                 *args: object) -> None:
        print(metadata.version('nova-snapdriver'))
        parser.exit()


def _load(name: str) -> base.Command:
    try:
        module = importlib.import_module(f'nova_snapdriver.cmd.{name}')
    except ImportError as error:
        raise base.CommandError(
            f'{error}. Install nova-snapdriver where nova-compute runs, and '
            'call that one') from error
    return typing.cast(base.Command, module)


if __name__ == '__main__':
    sys.exit(main())
