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


"""The points where tests let something go wrong."""

import ast
import json
import pathlib
import signal
import subprocess
import sys
import threading
import time

import pytest

from nova_snapdriver import faultpoint

ROOT = pathlib.Path(__file__).parents[2]
POINT = 'live.begun'


def used():
    """The points that the driver's code names."""
    for path in (ROOT / 'nova_snapdriver').rglob('*.py'):
        for node in ast.walk(ast.parse(path.read_bytes())):
            match node:
                case ast.Call(
                        func=ast.Attribute(attr='reach', value=ast.Name(
                            id='faultpoint')),
                        args=[ast.Constant(value=point)]):
                    yield point


def test_what_is_listed_is_in_the_code_once_and_nothing_else():
    assert sorted(used()) == sorted(faultpoint.POINTS)
    assert len(faultpoint.POINTS) >= 25


@pytest.fixture
def directory(tmp_path, monkeypatch):
    monkeypatch.setattr(faultpoint, '_directory', str(tmp_path))
    return tmp_path


def arm(directory, **points):
    (directory / faultpoint.ARMED).write_text(json.dumps(
        {name.replace('_', '.'): action for name, action in points.items()}))


def test_nothing_happens_without_the_variable(monkeypatch):
    monkeypatch.setattr(faultpoint, '_reach', None)
    faultpoint.reach(POINT)


def test_what_is_reached_is_noted(directory):
    faultpoint.reach(POINT)
    faultpoint.reach('job.ended')
    assert (directory / faultpoint.REACHED).read_text().split() == [
        POINT, 'job.ended']


def test_it_raises_for_the_first_one(directory):
    arm(directory, live_begun='raise')
    with pytest.raises(faultpoint.Fault, match=POINT):
        faultpoint.reach(POINT)
    assert (directory / (POINT + faultpoint.TAKEN)).exists()
    faultpoint.reach(POINT)


def test_it_holds_until_it_is_let_go(directory):
    arm(directory, live_begun='hold')
    thread = threading.Thread(target=faultpoint.reach, args=(POINT,),
                              daemon=True)
    thread.start()
    end = time.monotonic() + 10
    while not (directory / (POINT + faultpoint.TAKEN)).exists():
        assert time.monotonic() < end
        time.sleep(0.01)
    assert thread.is_alive()
    (directory / faultpoint.ARMED).unlink()
    thread.join(10)
    assert not thread.is_alive()


def test_it_kills_the_process(tmp_path):
    arm(tmp_path, live_begun='kill')
    done = subprocess.run(
        [sys.executable, '-c', 'from nova_snapdriver import faultpoint;'
         f'faultpoint.reach("job.ended"); faultpoint.reach("{POINT}")'],
        cwd=ROOT, env={faultpoint.VARIABLE: str(tmp_path)})
    assert done.returncode == -signal.SIGKILL
