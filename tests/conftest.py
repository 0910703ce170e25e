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

"""What any machine may be: slow, or with temporary files in a deep place."""

import os

import hypothesis

# Where tmp_path is: sockets are made in it, whose paths have 107 bytes at the
# most, and a TMPDIR may leave no room.
os.environ.setdefault('PYTEST_DEBUG_TEMPROOT', '/tmp')

# By default an example that takes longer than 200 ms is a failure.
hypothesis.settings.register_profile(
    'slow', deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile('slow')
