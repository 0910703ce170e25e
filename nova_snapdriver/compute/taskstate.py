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

"""The task state of a server, while a snapshot of it is taken.

Nova's manager gives a function that sets it. That of a shelve knows the two
states below and no others, and the manager wants the second at the end.
"""

from collections.abc import Callable
from typing import Any

from nova.compute import task_states

Update = Callable[..., None]


class TaskState:
    """Moves the task state on.

    :param update: Nova's ``update_task_state(task_state, expected_state)``,
        which expects the state that the API has set where nothing else is
        said
    """

    def __init__(self, update: Update) -> None:
        self._update = update

    def pending(self) -> None:
        """Leave the state that the API has set, before anything takes time.

        Nova clears this one when it starts, and IMAGE_BACKUP not: that one's
        request could still be in the queue.
        """
        self._update(task_state=task_states.IMAGE_PENDING_UPLOAD)

    def uploading(self) -> None:
        """From now on the image gets its data."""
        self._update(task_state=task_states.IMAGE_UPLOADING,
                     expected_state=task_states.IMAGE_PENDING_UPLOAD)

    def update(self, task_state: str, **expected: Any) -> None:
        """What Nova's own snapshot() is given, after :meth:`pending`."""
        if task_state == task_states.IMAGE_PENDING_UPLOAD and not expected:
            return                      # that is so already
        self._update(task_state=task_state, **expected)
