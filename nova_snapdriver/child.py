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

"""Child processes: without the service's secrets, and with resource limits."""

import contextlib
import os
import subprocess

from oslo_concurrency import processutils
from oslo_log import log as logging
from oslo_utils import units

LOG = logging.getLogger(__name__)

_TERMINATE_SECONDS = 5

# For a program that inspects an image or creates an empty one. A damaged or
# malicious image must not exhaust the host (CVE-2015-5162).
_LIMITS = processutils.ProcessLimits(
    address_space=units.Gi, cpu_time=30, core_file_size=0, number_files=256)


def environment() -> dict[str, str]:
    """A minimal environment: the service's own may hold secrets."""
    return {name: os.environ[name] for name in ('PATH', 'LANG')
            if name in os.environ}


def end(process: 'subprocess.Popen[bytes]') -> None:
    """Terminate a process; kill it if it does not end. Idempotent.

    One that a dead disk holds in the kernel is left to it.
    """
    for signal in (process.terminate, process.kill):
        signal()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_TERMINATE_SECONDS)
            return
    LOG.error('Process %d was killed and does not end', process.pid)


def output(*command: str,
           limits: processutils.ProcessLimits = _LIMITS) -> str:
    """Run a command and return what it prints.

    :param limits: the default ones suit a program that ends within seconds
    :raises oslo_concurrency.processutils.ProcessExecutionError: it failed
    """
    out, _ = processutils.execute(
        *command, prlimit=limits,
        env_variables={'PATH': os.environ.get('PATH', os.defpath),
                       'LC_ALL': 'C'})
    return str(out)
