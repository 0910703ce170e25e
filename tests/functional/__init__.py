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

"""Nova 31 and 32 call libvirt in threads of eventlet's.

Their answers arrive only in a process that eventlet has patched. Nova-compute
is one there, and so are these tests: before anything else of Nova is imported.
"""

import importlib.metadata
import os
import threading

native_threading = threading

if importlib.metadata.version('nova') < '33':
    # Few, so that what holds one for long is seen.
    os.environ['EVENTLET_THREADPOOL_SIZE'] = '3'
    import eventlet.patcher
    import nova.monkey_patch

    # Nova 31 patches on import.
    getattr(nova.monkey_patch, 'patch', lambda: None)()
    native_threading = eventlet.patcher.original('threading')
