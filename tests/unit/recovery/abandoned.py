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

"""What an abandoned snapshot has left, and what became of it."""

import os

from nova_snapdriver.recovery import undo
from tests.unit import cloud as fake_cloud

OURS, OTHERS = fake_cloud.OURS, fake_cloud.OTHERS


def kept(entries):
    return any(name.endswith('.json')
               for name in os.listdir(entries._directory))


def freeze(domain, who=OURS):
    domain.frozen, domain.settled = who, who is not OURS


def save(domain, who=OURS):
    domain.save(who)


def tools(cloud):
    return undo.Tools(cloud, cloud.launch, cloud.attach, 5)
