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

"""How the disk is captured by each path that reads it."""

from collections.abc import Callable
import contextlib

from nova_snapdriver.capture import cold
from nova_snapdriver.capture import export
from nova_snapdriver.capture import live
from nova_snapdriver.capture import mirror
from nova_snapdriver.capture import request as capture_request
from nova_snapdriver import plan

Capturing = contextlib.AbstractContextManager[export.Capture]

CAPTURES: dict[plan.Path, Callable[[capture_request.Request], Capturing]] = {
    plan.Path.LIVE: live.capture,
    plan.Path.MIRROR: mirror.capture,
    plan.Path.COLD: cold.capture,
}
