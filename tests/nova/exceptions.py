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

"""The tests of Nova's that do not hold for our driver, each with a reason.

One that passes after all, or is gone from Nova, fails the run.
"""

_NO_XML = ('its fake domain has no XML, and that is where our driver reads '
           'which disk there is')

_BASE = 'virt.libvirt.test_driver.'

EXCEPTIONS = {
    _BASE + '%s.%s' % (group, name): _NO_XML
    for group in ('LibvirtSnapshotTests', 'LXCSnapshotTests')
    for name in ('test_cold_snapshot_based_on_power_state',
                 'test_failing_domain_not_found',
                 'test_raw_with_rbd_clone_is_live_snapshot')}
EXCEPTIONS[_BASE + 'LibvirtSnapshotTests.'
           'test_raw_with_rbd_clone_failure_does_cold_snapshot'] = _NO_XML
