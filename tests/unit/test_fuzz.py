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

"""Nonsense in, a clear error out: all that parses what comes from outside."""

import json
import pathlib
import uuid

import hypothesis
from hypothesis import strategies
from lxml import etree
import pytest

from nova_snapdriver import exception
from nova_snapdriver import image
from nova_snapdriver import imagebackend
from nova_snapdriver import journal

ENTRY = {'version': 1, 'instance': str(uuid.uuid4()),
         'image': str(uuid.uuid4()), 'path': 'live',
         'workspace': '/var/lib/snapdriver-0badcafe',
         'socket': '/var/lib/snapdriver-0badcafe/nbd', 'thaw': True,
         'begun_at': '2026-11-01T00:00:00+00:00'}
WORDS = strategies.sampled_from((
    'file', 'block', 'network', 'qcow2', 'raw', '', 'disk', '../x', 'ä', '0'))
JSON = strategies.recursive(
    strategies.none() | strategies.booleans() | strategies.integers() |
    strategies.floats() | strategies.text(),
    lambda inner: strategies.lists(inner) | strategies.dictionaries(
        strategies.text(), inner), max_leaves=20)


@strategies.composite
def elements(draw, depth=4):
    """What libvirt might say of disks, with anything anywhere."""
    element = etree.Element(draw(strategies.sampled_from((
        'devices', 'disk', 'driver', 'source', 'target', 'backingStore',
        'format', 'encryption', 'mirror', 'readonly', 'host', 'auth'))))
    for name in draw(strategies.sets(strategies.sampled_from((
            'type', 'file', 'dev', 'name', 'protocol', 'device')))):
        element.set(name, draw(WORDS))
    if depth:
        element.extend(draw(strategies.lists(elements(depth - 1),
                                             max_size=3)))
    return element


@hypothesis.settings(suppress_health_check=list(hypothesis.HealthCheck),
                     deadline=None)
@hypothesis.given(strategies.lists(elements(), max_size=4))
def test_domain_xml(disks):
    devices = etree.Element('devices')
    devices.extend(disks)
    domain = etree.Element('domain')
    domain.append(devices)
    try:
        disk = imagebackend.root_disk(domain)
    except exception.DiskUnusable:
        return
    assert disk is None or disk.source.format


@hypothesis.given(strategies.binary() | JSON.map(
    lambda value: json.dumps(value).encode()) | strategies.builds(
        lambda name, value: json.dumps({**ENTRY, name: value}).encode(),
        strategies.sampled_from((*ENTRY, 'more')), JSON | strategies.text()))
def test_journal_file(tmp_path_factory, content):
    directory = tmp_path_factory.mktemp('journal')
    read(directory, content)


@pytest.mark.parametrize('begun_at', ('', 'soon', '2026-11-01'))
def test_journal_file_without_a_time(tmp_path, begun_at):
    content = json.dumps({**ENTRY, 'begun_at': begun_at}).encode()
    assert read(tmp_path, content) == []


def test_journal_file_that_is_nested_deep(tmp_path):
    assert read(tmp_path, b'[' * (1 << 16)) == []


def read(directory: pathlib.Path, content):
    (directory / 'entry.json').write_bytes(content)
    found = []
    for record in journal.Journal(str(directory)).abandoned():
        found.append(record.entry)
        # What an operator is shown must not fail either.
        assert record.entry.age is not None
        assert record.sent() is None
        record.close()
    return found


@hypothesis.given(JSON)
def test_progress_file(tmp_path_factory, value):
    directory = tmp_path_factory.mktemp('journal')
    (directory / 'entry.json').write_text(json.dumps(ENTRY))
    (directory / 'entry.progress').write_text(json.dumps(value))
    record, = journal.Journal(str(directory)).abandoned()
    sent = record.sent()
    record.close()
    assert sent is None or len(sent) == 2


@hypothesis.given(strategies.text())
def test_error_page_of_glance(text):
    assert 0 < len(image._message(text)) <= 300


@hypothesis.given(strategies.dictionaries(strategies.text(), JSON))
def test_image_as_glance_describes_it(found):
    changes = image._changes({'status': 'active', 'disk_format': 'raw',
                              'properties': {'a': 1}}, found)
    assert {change['path'] for change in changes} <= {'/disk_format', '/a'}
