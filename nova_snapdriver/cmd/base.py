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

"""What every subcommand of nova-snapdriver has in common."""

import argparse
import typing


class CommandError(Exception):
    """What went wrong, in one line for an operator; ends with status 1."""


class Command(typing.Protocol):
    """What a module of nova_snapdriver.cmd offers to be a subcommand.

    Its docstring's first line is the help text.
    """

    __doc__: str | None

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare the subcommand's own arguments."""

    def run(self, args: argparse.Namespace) -> int:
        """Do it, and return the exit status.

        :raises CommandError: for what the operator can put right.
        """
