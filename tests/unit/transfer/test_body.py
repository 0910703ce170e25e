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

"""Streams do not wait for each other."""

import os
import sys
import threading
import types

import pytest

from nova_snapdriver.transfer import body

TIMEOUT = 30
# Says how long the image is once it is told so, in place of a survey.
CHILD = """
import sys
with open(sys.argv[1]) as told:
    told.read()
print('{"event": "layout", "length": 4096}', file=sys.stderr)
"""


@pytest.fixture
def image(tmp_path):
    """Makes an image, and the pipe that lets it be laid out."""
    def make(name):
        pipe = tmp_path / name
        os.mkfifo(pipe)
        request = types.SimpleNamespace(
            source=types.SimpleNamespace(ahead=None),
            command=lambda: [sys.executable, '-c', CHILD, str(pipe)])
        return body.ImageBody(request), pipe
    return make


def test_one_is_laid_out_while_another_is_surveyed(image):
    (slow, slow_pipe), (quick, quick_pipe) = image('slow'), image('quick')
    with slow, quick:
        waiting = threading.Thread(target=lambda: slow.length, daemon=True)
        waiting.start()
        lengths = []
        other = threading.Thread(target=lambda: lengths.append(quick.length),
                                 daemon=True)
        other.start()
        quick_pipe.write_text('')
        other.join(TIMEOUT)
        assert lengths == [4096]
        assert waiting.is_alive()
        slow_pipe.write_text('')
        waiting.join(TIMEOUT)
        assert slow.length == 4096
