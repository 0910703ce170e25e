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

"""The line of figures that each snapshot leaves in the log."""

import pathlib
import textwrap
import types

from nova import exception as nova_exception
import pytest

from nova_snapdriver import exception
from nova_snapdriver import metrics
from nova_snapdriver import plan

IMAGE = '9b2f0c6e-3d6b-4c3f-8d0e-7a51f0d3c1aa'
INSTANCE = types.SimpleNamespace(uuid='5c1d')
LINE = (
    'Snapshot metrics: image=9b2f0c6e-3d6b-4c3f-8d0e-7a51f0d3c1aa '
    'result=success error=- phase=done path=live destination=glance '
    'consistency=filesystem bytes_read=1177944064 bytes_sent=1178206208 '
    'scratch_peak_bytes=2949120 retries=0 freeze_seconds=0.112 '
    'wait_seconds=0.002 plan_seconds=0.208 capture_seconds=0.181 '
    'layout_seconds=0.229 upload_seconds=12.324 verify_seconds=0.077 '
    'release_seconds=0.245 total_seconds=13.266')
PAGE = pathlib.Path(__file__).parents[2] / 'doc/source/operations.rst'


@pytest.fixture
def meter():
    """Of a snapshot whose phases begin at these seconds."""
    return metrics.Meter(clock=iter((
        0, 0.002, 0.21, 0.391, 0.62, 12.944, 13.021, 13.266)).__next__)


def log(meter, caplog, *raised):
    """Log the line; the text and the record of it."""
    caplog.set_level('INFO')
    with metrics.logged(meter, INSTANCE, IMAGE):
        for error in raised:
            raise error
    record, = caplog.records
    return record


def taken(meter):
    meter.planned(plan.Plan(plan.Path.LIVE, ''))
    for phase in list(metrics.Phase)[1:]:
        meter.begin(phase)
    meter.captured('filesystem', 0.1121)
    meter.bytes_read, meter.bytes_sent = 1177944064, 1178206208
    for used in (100, 2949120, 4096):
        meter.note_scratch(used)


def test_line(meter, caplog):
    taken(meter)
    record = log(meter, caplog)
    assert record.getMessage() == LINE
    assert (record.name, record.levelname) == (
        'nova_snapdriver.metrics', 'INFO')


def test_line_in_the_docs_is_that_of_the_driver():
    shown = textwrap.fill(LINE, 77, break_on_hyphens=False)
    assert textwrap.indent(shown, '  ') in PAGE.read_text()


def figures(message):
    return dict(word.split('=', 1) for word in message.split()[2:])


@pytest.mark.parametrize('error, result', (
    (exception.UploadFailed(reason='no'), 'failure'),
    (exception.Cancelled(reason='no'), 'cancelled'),
    (nova_exception.ImageNotFound(image_id='x'), 'cancelled'),
    (nova_exception.InstanceNotFound(instance_id='x'), 'cancelled'),
    (SystemExit(), 'failure')))
def test_line_of_one_that_fails_has_the_same_words(error, result, meter,
                                                   caplog):
    meter.begin(metrics.Phase.PLAN)
    meter.begin(metrics.Phase.CAPTURE)
    with pytest.raises(type(error)):
        log(meter, caplog, error)
    found = figures(caplog.records[0].getMessage())
    assert list(found) == list(figures(LINE))
    assert (found['result'], found['error'], found['phase']) == (
        result, type(error).__name__, 'capture')
    assert (found['path'], found['upload_seconds']) == ('-', '0.000')


@pytest.mark.parametrize('path, stored, expected', (
    (plan.Path.LIVE, False, 'glance'), (plan.Path.LIVE, True, 'rbd'),
    (plan.Path.DIRECT, False, 'rbd'), (plan.Path.STOCK, False, 'glance')))
def test_destination(path, stored, expected, meter):
    meter.planned(plan.Plan(path, '', stored=stored))
    assert meter.destination == expected


def test_page_explains_every_word():
    page = PAGE.read_text()
    for word in figures(LINE):
        word = word if word in ('freeze_seconds', 'total_seconds') else (
            word.replace('_seconds', ''))
        assert f'``{word}``' in page
