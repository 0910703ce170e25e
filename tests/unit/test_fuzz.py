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

import contextlib
import json
import os
import pathlib
import uuid

import hypothesis
from hypothesis import strategies
from lxml import etree
import pytest

from nova_snapdriver import exception
from nova_snapdriver import imagebackend
from nova_snapdriver import journal
from nova_snapdriver.transfer import description
from nova_snapdriver.transfer import image
from nova_snapdriver.transfer import verify

ENTRY = {'version': 2, 'host': 'compute-1', 'instance': str(uuid.uuid4()),
         'image': str(uuid.uuid4()),
         'workspace': '/var/lib/snapdriver-0badcafe',
         'socket': '/var/lib/snapdriver-0badcafe/nbd',
         'begun_at': '2026-11-01T00:00:00+00:00', 'visible': True}
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
    entries = journal.Journal(str(directory), 'compute-1')
    for record in entries.abandoned():
        found.append(record.entry)
        # What an operator is shown must not fail either.
        assert record.entry.host == 'compute-1'
        assert record.entry.age is not None
        assert record.sent() is None
        record.close()
    # Nothing is passed over in silence, and nothing is removed.
    shown = [one.path.name for one in entries.unusable()]
    assert ('entry.json' in shown) != bool(found)
    assert (directory / 'entry.json').exists()
    return found


def test_journal_with_what_is_no_file(tmp_path):
    """A link, a pipe or a directory hides no other entry."""
    (tmp_path / 'a.json').symlink_to('/etc/passwd')
    os.mkfifo(tmp_path / 'b.json')
    (tmp_path / 'c.json').mkdir()
    assert [entry.instance for entry in read(
        tmp_path, json.dumps(ENTRY).encode())] == [ENTRY['instance']]


def test_progress_file_that_is_nested_deep(tmp_path):
    (tmp_path / 'entry.progress').write_bytes(b'[' * (1 << 16))
    assert len(read(tmp_path, json.dumps(ENTRY).encode())) == 1


@hypothesis.given(JSON)
def test_progress_file(tmp_path_factory, value):
    directory = tmp_path_factory.mktemp('journal')
    (directory / 'entry.json').write_text(json.dumps(ENTRY))
    (directory / 'entry.progress').write_text(json.dumps(value))
    record, = journal.Journal(str(directory), 'compute-1').abandoned()
    sent = record.sent()
    record.close()
    assert sent is None or len(sent) == 2


@hypothesis.given(JSON, strategies.text(), strategies.sampled_from(
    ('planned', 'whole', 'frozen', 'suspended', 'paused')))
def test_companion_file(tmp_path_factory, value, text, suffix):
    """One that is nonsense is an error of ours, or says nothing."""
    directory = tmp_path_factory.mktemp('journal')
    (directory / 'entry.json').write_text(json.dumps(ENTRY))
    for content in (json.dumps(value), text):
        (directory / ('entry.' + suffix)).write_bytes(
            content.encode(errors='surrogatepass'))
        companions(directory)


@pytest.mark.parametrize('suffix', ('planned', 'whole'))
def test_companion_file_that_is_nested_deep(tmp_path, suffix):
    (tmp_path / 'entry.json').write_text(json.dumps(ENTRY))
    (tmp_path / ('entry.' + suffix)).write_bytes(b'[' * (1 << 16))
    companions(tmp_path)


@pytest.mark.parametrize('make', (
    os.mkfifo, os.mkdir, lambda path: os.symlink('/etc/passwd', path)))
@pytest.mark.parametrize('suffix', (
    'progress', 'planned', 'whole', 'frozen', 'suspended', 'paused'))
def test_companion_that_is_no_file(tmp_path, make, suffix):
    (tmp_path / 'entry.json').write_text(json.dumps(ENTRY))
    make(tmp_path / ('entry.' + suffix))
    make(tmp_path / ('stray.' + suffix))
    os.utime(tmp_path / ('stray.' + suffix), (0, 0), follow_symlinks=False)
    companions(tmp_path)


def companions(directory):
    record, = journal.Journal(str(directory), 'compute-1').abandoned()
    with contextlib.closing(record):
        assert record.whole is None or record.whole.length is not None
        assert record.sent() is None or len(record.sent()) == 2
        for mark in journal.Mark:
            with short_errors():
                text = record.marked(mark)
                assert text is None or (directory / ('entry' + mark)).exists()
                assert 'root:' not in str(text)
        with short_errors():
            assert all(isinstance(one, str) for one in (
                record.planned.path, *record.planned.snapshots,
                record.planned.clone))


@contextlib.contextmanager
def short_errors():
    try:
        yield
    except exception.JournalUnusable as ex:
        assert len(str(ex)) < 1000


@hypothesis.given(strategies.text())
def test_error_page_of_glance(text):
    assert 0 < len(image._message(text)) <= 300


class Answer:
    """A response of Glance's."""

    def __init__(self, content):
        self._content = content

    def json(self):
        return json.loads(self._content)


@hypothesis.given(strategies.binary() | JSON.map(json.dumps))
@hypothesis.example(b'[' * (1 << 16))
@hypothesis.example(b'null')
@hypothesis.example(b'<html>')
def test_answer_of_glance(content):
    try:
        found = description.read(Answer(content))
    except exception.UploadFailed as ex:
        assert len(str(ex)) < 1000
        return
    description.changes({'status': 'active', 'properties': {'a': 1}}, found)


ALGORITHMS = strategies.sampled_from(
    ('sha512', 'sha256', 'md5', 'shake_128', '', 'x' * 10000))
FIELDS = strategies.fixed_dictionaries({}, optional={
    'status': JSON | strategies.just('active'),
    'size': JSON | strategies.just(512),
    'os_hash_algo': JSON | ALGORITHMS,
    'os_hash_value': JSON | strategies.just('0' * 128)})


@hypothesis.given(FIELDS, strategies.booleans())
@hypothesis.example({'status': 'active', 'size': 512, 'os_hash_algo': ['a'],
                     'os_hash_value': {}}, True)
@hypothesis.example({'status': 'active', 'size': 512,
                     'os_hash_algo': 'shake_128'}, True)
@hypothesis.example({'status': 'active', 'size': 512,
                     'os_hash_algo': 'sha512',
                     'os_hash_value': 'x' * (1 << 20)}, True)
@hypothesis.example({'status': 'x' * (1 << 20)}, True)
def test_image_that_is_verified(stored, hashes):
    """It is what was sent, or there is one error of a bounded length."""
    sent = verify.Sent('sha512', 512, '0' * 128, lambda algorithm: '1')
    try:
        verify.verify(stored, sent, hashes)
    except exception.VerifyFailed as ex:
        assert len(str(ex)) < 1000
        return
    assert stored['status'] == 'active' and stored['size'] == 512
    assert not hashes or stored['os_hash_value'] in ('0' * 128, '1')


@hypothesis.given(strategies.dictionaries(strategies.text(), JSON))
def test_image_as_glance_describes_it(found):
    changes = description.changes({'status': 'active', 'disk_format': 'raw',
                                   'properties': {'a': 1}}, found)
    assert {change['path'] for change in changes
            if change['op'] == 'add'} <= {'/disk_format', '/a'}
