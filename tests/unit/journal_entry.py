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

"""An entry of the journal, for tests that need one."""

from nova_snapdriver import journal

HOST = 'compute-1'
ENTRY = journal.Entry(
    host=HOST, instance='3f0f9f6e-6b3a-4f6e-8d8e-7b1d4c1f2a3b',
    image='6ed4ff3f-7c4b-4a6f-9b5c-0d1b7e1e7e11',
    workspace='/scratch/snapdriver-01234567',
    socket='/scratch/snapdriver-01234567/nbd',
    begun_at='2026-11-22T20:00:00+00:00')
