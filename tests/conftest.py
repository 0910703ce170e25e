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

"""Which tests may run beside each other (pytest-xdist's loadgroup)."""

import pytest


def pytest_configure(config):
    config.addinivalue_line(
        'markers', 'xdist_group(name): those that one process runs')


# Before xdist looks at the groups.
@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """One process for all that use the lab, and one for each other file."""
    for item in items:
        folder = item.path.parent.name
        name = folder if folder == 'e2e' else str(item.path)
        item.add_marker(pytest.mark.xdist_group(name))
