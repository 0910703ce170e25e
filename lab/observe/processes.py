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

"""Look at processes of a snapshot, by psutil."""

import collections.abc
import os
import pathlib
import typing

from lab.openstack import config
from lab.openstack import services
from lab.openstack import settings

try:
    import psutil
    #: Raised for a process that has ended.
    Gone: type[Exception] = psutil.Error
except ImportError:
    # The help of commands works before it is installed.
    psutil, Gone = None, OSError

Process = typing.Any
# In the command lines of what reads a disk, or its copy, for a snapshot.
SNAPSHOTS = 'instances/snapshots/'
KIB = 1 << 10


def every(attributes: collections.abc.Sequence[str] = ()
          ) -> collections.abc.Iterator[Process]:
    """Yield all processes, by pid; with attributes in `info`."""
    yield from psutil.process_iter(list(attributes) or None)


def command(one: Process) -> str:
    """Return a process's command line; empty if the process is gone."""
    try:
        return ' '.join(one.cmdline())
    except Gone:
        return ''


def _shares(one: Process, namespace: str) -> bool:
    """Return whether a process is in our namespace.

    Another lab, in a container, has processes with the same paths.
    """
    try:
        return (os.readlink(f'/proc/{one.pid}/ns/{namespace}')
                == os.readlink(f'/proc/self/ns/{namespace}'))
    except OSError:
        return False


def matching(words: str, namespace: str = 'pid') -> list[Process]:
    """Return the processes with some words in their command lines."""
    return [one for one in every()
            if words in command(one) and _shares(one, namespace)]


def strays() -> list[str]:
    """Return the commands that read a disk for a snapshot."""
    found = [command(one) for one in matching(SNAPSHOTS, 'mnt')]
    return [line for line in found if line and 'qemu-system' not in line]


def compute(conf: settings.Settings) -> Process:
    """Return nova-compute's process.

    :raises LabError: it does not run
    """
    record = services.NovaCompute(conf, config.Compute()).record()
    if record is None:
        raise settings.LabError('nova-compute does not run',
                                conf.log('nova-compute'))
    return psutil.Process(record.pid)


def memory_peak(pid: int) -> int:
    """Return the most that was resident, in bytes; psutil has no peak."""
    try:
        text = pathlib.Path(f'/proc/{pid}/status').read_text()
    except OSError:
        return 0
    found = [line.split()[1] for line in text.splitlines()
             if line.startswith('VmHWM')]
    return int(found[0]) * KIB if found else 0
