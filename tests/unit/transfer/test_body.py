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

import hashlib
import os
import threading

import pytest

from nova_snapdriver import exception
from nova_snapdriver.transfer import body
from tests.unit.transfer import fake_process

TIMEOUT = 30
# Says how long the image is once it is told so, in place of a sample.
CHILD = """
import sys
with open(sys.argv[3]) as told:
    told.read()
print('{"event": "layout", "length": 4096}', file=sys.stderr)
"""


@pytest.fixture
def image(tmp_path):
    """Makes an image, and the pipe that lets it be laid out."""
    def make(name):
        pipe = tmp_path / name
        os.mkfifo(pipe)
        return body.ImageBody(
            fake_process.Request(CHILD, (str(pipe),))), pipe
    return make


def test_one_is_laid_out_while_another_is_sampled(image):
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


# Needs a place of 20, or a plain image, and predicts 10 by itself.
GROWING = """
import hashlib, json, sys
def say(event, **values):
    print(json.dumps(dict(values, event=event)), file=sys.stderr)
asked, algorithm, needed = sys.argv[1:]
place = 10 if asked == 'None' else int(asked)
image = b'x' * (100 + place)
say('layout', length=len(image), place=place)
if 0 < place < int(needed):
    print('x' * 7, end='', flush=True)
    say('outgrown', message='too much', place=20)
    sys.exit(1)
print(image.decode(), end='', flush=True)
say('done', length=len(image), harder_from=3,
    digest=hashlib.new(algorithm, image).hexdigest())
"""


def growing(needed):
    return body.ImageBody(fake_process.Request(GROWING, (str(needed),)))


def whole(image):
    return b''.join(map(bytes, image))


def test_an_image_that_is_sent_again_has_the_length_of_the_first():
    with growing(10) as image:
        assert len(image) == 110
        assert whole(image) == whole(image) == b'x' * 110
        assert image.length == 110


@pytest.mark.parametrize('needed, lengths', (
    (20, [110, 120]), (30, [110, 120, 100])))
def test_image_that_outgrows_its_prediction_is_begun_again(needed, lengths,
                                                           caplog):
    with growing(needed) as image:
        for length in lengths[:-1]:
            image.prepare()
            assert len(image) == length
            with pytest.raises(exception.Outgrown):
                whole(image)
        image.prepare()
        assert len(image) == lengths[-1]
        assert whole(image) == b'x' * lengths[-1]
    assert 'outgrew its prediction (%d)' % (len(lengths) - 1) in caplog.text


def test_another_hash_is_of_the_same_image():
    told = []
    with growing(10) as image:
        image._again = lambda *values: told.append(values)
        assert whole(image) == b'x' * 110
        assert image.hash_again('md5') == hashlib.md5(b'x' * 110).hexdigest()
    assert told[-1] == (110, 110)


def test_another_hash_is_cancelled_with_the_rest():
    with growing(10) as image:
        whole(image)
        image.cancel()
        with pytest.raises(exception.StreamFailed, match='cancelled'):
            image.hash_again('md5')
