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

"""Which tests may run beside each other, in processes of pytest-xdist."""

import pytest

LAB = 'tests/e2e/'


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """One process for all that use the lab, and one for each other file."""
    from xdist import scheduler

    class ByFile(scheduler.LoadScopeScheduling):
        def _split_scope(self, nodeid):
            return LAB if nodeid.startswith(LAB) else nodeid.split('::')[0]

    return ByFile(config, log)
