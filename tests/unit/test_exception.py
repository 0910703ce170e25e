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

"""What a failed snapshot says to the tenant."""

import pathlib
import re
import runpy

from nova.compute import utils as compute_utils
from nova import exception as nova_exception
import pytest

from nova_snapdriver import exception

DOCS = pathlib.Path(__file__).parents[2] / 'doc/source'
ERRORS = [error for error in vars(exception).values()
          if isinstance(error, type) and
          issubclass(error, nova_exception.NovaException)]
SECRET = '/var/lib/nova/instances on compute-1.example'
# What only an operator knows: paths, options, commands.
INSIDE = re.compile(r'/|\[\w+\]|nova-|virsh|%')
# What Nova's column holds.
LIMIT_BYTES = 255


def made(error):
    arguments = {'place': 3} if error is exception.Outgrown else {}
    return error(reason=SECRET, domain='instance-1', image=SECRET,
                 store=SECRET, known='', **arguments)


@pytest.mark.parametrize('error', ERRORS)
def test_tenant_sees_a_sentence_without_the_host(error):
    # As Nova makes the details of an event, and the message of a fault.
    shown = compute_utils.exception_to_dict(made(error))['message']
    assert shown == error.tenant
    assert SECRET not in shown and not INSIDE.search(shown)
    assert shown.endswith('.')
    assert len(shown.encode()) <= LIMIT_BYTES


@pytest.mark.parametrize('error', ERRORS)
def test_log_has_the_reason(error):
    if '%(' in error.msg_fmt:
        assert SECRET in str(made(error))


@pytest.mark.parametrize('error', [
    error for error in ERRORS if error is not exception.Outgrown])
def test_each_error_has_words_of_its_own(error):
    assert 'tenant' in vars(error)


def test_table_in_the_docs_is_that_of_the_code():
    table = runpy.run_path(str(DOCS / 'errors.py'))['table']()
    assert (DOCS / 'errors-table.inc').read_text() == table
