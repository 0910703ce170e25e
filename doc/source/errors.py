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

"""The table of what a failed snapshot says to a tenant and to the log.

``python doc/source/errors.py >doc/source/errors-table.inc`` makes it.
"""

from collections.abc import Iterator
import re
import textwrap

from nova_snapdriver import exception


def table() -> str:
    """The table, in reStructuredText, in the order of exception.py."""
    return '\n'.join(_lines()) + '\n'


def _lines() -> Iterator[str]:
    yield from ('.. list-table::', '   :header-rows: 1', '',
                '   * - The tenant sees', '     - The log has')
    for error in vars(exception).values():
        if (isinstance(error, type) and 'tenant' in vars(error)):
            yield from _cell('   * - ', error.tenant)
            yield from _cell('     - ', _shown(error.msg_fmt))


def _shown(message: str) -> str:
    return re.sub(r'%\(\w+\)s', '…', message)


def _cell(first: str, text: str) -> list[str]:
    return textwrap.wrap(text, 79, initial_indent=first,
                         subsequent_indent=' ' * len(first),
                         break_on_hyphens=False)


if __name__ == '__main__':
    print(table(), end='')
