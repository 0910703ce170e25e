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
"""A few of the attacks of `lab/run attacks`, one of each kind."""

import pytest

from lab.attacks import attacks

SEED = 20150706


@pytest.fixture(scope='module')
def rows(lab):
    """All of them in one go: what has the same server is together."""
    wanted = [attack for attack in attacks.attacks()
              if attack.name in attacks.QUICK]
    made = attacks.Attacks(lab, SEED)
    made.run(wanted)
    return {row.name: row for row in made.rows}


@pytest.mark.parametrize('name', attacks.QUICK)
def test_attack(rows, name):
    assert rows[name].problems == []
