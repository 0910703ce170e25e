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


"""nova-compute and libvirtd in two containers: one reaches the other by TLS.

Kolla runs them so. The two share the directory of the instances.
"""

import pytest

from lab.paths import cases
from lab.paths import paths

CASES = cases.tls_cases()


@pytest.fixture(scope='module')
def rows(lab):
    if lab.libvirtd.record() is None:
        pytest.skip("libvirtd is the machine's own, and knows no TLS")
    made = paths.Paths(lab)
    made.run(CASES)
    return {row.name: row for row in made.rows}


@pytest.mark.parametrize('name', [case.name for case in CASES])
def test_snapshot(rows, name):
    assert rows[name].problems == []
