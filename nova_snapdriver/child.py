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

"""Child processes: with nothing of the service's, and ended for sure."""

import os
import subprocess

from oslo_concurrency import processutils
from oslo_utils import units

_TERMINATE_SECONDS = 5

# Of a program that looks at an image or makes an empty one. A damaged or
# malicious image must not eat the host (CVE-2015-5162).
_LIMITS = processutils.ProcessLimits(
    address_space=units.Gi, cpu_time=30, core_file_size=0, number_files=256)


def environment() -> dict[str, str]:
    """Just what a program needs: no secret of the service gets to a child."""
    return {name: os.environ[name] for name in ('PATH', 'LANG')
            if name in os.environ}


def end(process: 'subprocess.Popen[bytes]') -> None:
    """End a process, whatever it does. Idempotent."""
    process.terminate()
    try:
        process.wait(_TERMINATE_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def output(*command: str,
           limits: processutils.ProcessLimits = _LIMITS) -> str:
    """What a command prints, within limits: a short one's by default.

    :raises oslo_concurrency.processutils.ProcessExecutionError: it failed
    """
    out, _ = processutils.execute(
        *command, prlimit=limits,
        env_variables={'PATH': os.environ.get('PATH', os.defpath),
                       'LC_ALL': 'C'})
    return str(out)
