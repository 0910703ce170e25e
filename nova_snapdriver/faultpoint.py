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

"""Named points in the driver at which a test can inject a fault.

They do nothing unless nova-compute was started with the environment variable
``NOVA_SNAPDRIVER_FAULTS``, which names a directory. The file ``armed`` there
says what happens at which point, as ``{"POINT": "kill"}``. Only the first
thread or process that reaches the point does it:

* ``kill``: kill the process by SIGKILL
* ``hold``: wait until the point is no longer armed
* ``raise``: raise :class:`Fault`

It leaves a file ``POINT.taken``. Every point that is reached is appended to
the file ``reached``, one per line.
"""

import contextlib
import json
import os
import pathlib
import signal
import time

VARIABLE = 'NOVA_SNAPDRIVER_FAULTS'
ARMED = 'armed'
TAKEN = '.taken'
REACHED = 'reached'

_POLL_SECONDS = 0.05

_BEGINNING = ('journal.written', 'snapshot.planned')
_END = ('workspace.removing', 'workspace.removed', 'journal.removing',
        'journal.removed')
_SENDING = ('upload.announced', 'image.described', 'stream.laid-out',
            'upload.first', 'upload.middle', 'upload.answered',
            'upload.verified')
_FREEZING = ('freeze.asked', 'freeze.done')
_THAWING = ('thaw.asked', 'thaw.done')
_SERVING = ('server.started',)
_SERVED = ('server.ended',)
_JOB_ENDING = ('job.ending', 'job.ended')

#: The points that a snapshot reaches, by its path, in about this order.
PATHS: dict[str, tuple[str, ...]] = {
    'live': (*_BEGINNING, 'workspace.made', *_FREEZING, 'live.begun',
             *_THAWING, 'live.socket-given', *_SENDING, *_JOB_ENDING, *_END),
    'mirror': (*_BEGINNING, 'workspace.made', 'mirror.overlay-made',
               'mirror.begun', 'mirror.in-step', *_FREEZING, 'mirror.ended',
               *_THAWING, *_JOB_ENDING, *_SERVING, *_SENDING, *_SERVED, *_END),
    # For a server that is stopped.
    'cold': (*_BEGINNING, 'workspace.made', *_SERVING, *_SENDING, *_SERVED,
             *_END),
    # For a server that is running, and suspended meanwhile.
    'suspend': (*_BEGINNING, 'workspace.made', *_FREEZING, 'suspend.noted',
                'suspend.saved', 'copy.made', 'resume.begun',
                'resume.started', 'resume.noted', *_THAWING, *_SERVING,
                *_SENDING, *_SERVED, *_END),
    # For a server that is stopped, and an image written into Ceph.
    'rbd': (*_BEGINNING, 'workspace.made', *_SERVING, 'upload.announced',
            'image.described', 'stream.laid-out', 'upload.first',
            'upload.middle', 'rbd.written', 'rbd.referred',
            'upload.answered', 'upload.verified', *_SERVED, *_END),
    'direct': (*_BEGINNING, *_FREEZING, 'direct.held', *_THAWING,
               'direct.copied', 'direct.referred', 'journal.removing',
               'journal.removed'),
}
POINTS = frozenset(point for points in PATHS.values() for point in points)

_directory = os.environ.get(VARIABLE)


class Fault(Exception):
    """Raised at a point that is armed with ``raise``."""


def reach(point: str) -> None:
    """Inject the fault that a test has armed at this point, if any.

    :param point: one of :data:`POINTS`
    :raises Fault: the point is armed with ``raise``
    """
    if _directory is not None:
        _reach(pathlib.Path(_directory), point)


def _reach(directory: pathlib.Path, point: str) -> None:
    with open(directory / REACHED, 'a') as reached:
        reached.write(point + '\n')
    action = _armed(directory).get(point)
    if action is None:
        return
    try:
        (directory / (point + TAKEN)).touch(exist_ok=False)
    except FileExistsError:
        return
    if action == 'kill':
        os.kill(os.getpid(), signal.SIGKILL)
    if action == 'raise':
        raise Fault('at %s' % point)
    while point in _armed(directory):
        time.sleep(_POLL_SECONDS)


def _armed(directory: pathlib.Path) -> dict[str, str]:
    with contextlib.suppress(OSError, ValueError):
        armed: dict[str, str] = json.loads((directory / ARMED).read_text())
        return armed
    return {}
