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

import datetime

from lab.bench import phases

BEGAN = datetime.datetime(2030, 1, 2, 3, 4, 5).timestamp()


def line(seconds, words):
    when = datetime.datetime.fromtimestamp(BEGAN + seconds)
    return f'{when.isoformat(" ", "milliseconds")} 17 INFO some.module {words}'


OURS = [
    line(0.1, 'Snapshot path: live, as it runs'),
    line(0.5, 'Snapshot captured: path=live consistency=filesystem'),
    '  a line without a time',
    line(2.5, "Image laid out: {'length': 1}"),
    line(9.25, 'Snapshot uploaded and verified: bytes=1 seconds=9.0')]


def test_ours():
    assert phases.split(OURS, phases.OURS, BEGAN, BEGAN + 9.0) == {
        'capture': 0.5, 'layout': 2.0, 'upload': 6.5, 'verify': 0.25}


def test_stock():
    said = [
        line(0.1, 'Beginning live snapshot process'),
        line(0.2, 'Running cmd (subprocess): env qemu-img info disk'),
        line(4.0, 'Running cmd (subprocess): qemu-img convert -t none'),
        line(7.5, 'Snapshot extracted, beginning image upload'),
        line(20.5, 'Snapshot image upload complete')]
    assert phases.split(said, phases.STOCK, BEGAN, BEGAN + 20.0) == {
        'copy': 4.0, 'convert': 3.5, 'upload': 12.5}


def test_a_line_that_is_not_there_gives_no_phase():
    assert phases.split(OURS[:2], phases.OURS, BEGAN, BEGAN + 9.0) == {
        'capture': 0.5, 'upload': 8.5}


def test_a_phase_is_never_negative():
    """The log and the benchmark look at different moments."""
    found = phases.split(OURS, phases.OURS, BEGAN, BEGAN + 9.5)
    assert found['verify'] == 0.0


def test_a_plot_knows_every_phase():
    assert {mark.phase for mark in phases.OURS + phases.STOCK} <= set(
        phases.NAMES)
