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

import dataclasses

from nova_snapdriver.capture import export
from nova_snapdriver.capture import readahead
from nova_snapdriver.stream import arguments
from nova_snapdriver.transfer import process

PLAIN = process.Request(export.Export('/nbd', 'vda'), 'raw', None)


def parsed(request, *before):
    """What the process is told, behind these words."""
    words = request.command()
    module = words.index('nova_snapdriver.stream')
    assert tuple(words[:module - 3]) == before
    assert words[module - 2:module] == ['-P', '-m']
    return arguments.parse(words[module + 1:])


def test_plain_request():
    assert parsed(PLAIN) == arguments.Arguments(
        socket='/nbd', export='vda', format='raw', hash='none')


def test_request_with_all_there_is(tmp_path):
    with readahead.ReadAhead(readahead.Spool('/spool', 7, 8)) as ahead:
        request = process.Request(
            export.Export('/nbd', 'vda', ahead), 'qcow2', 'sha256',
            process.Compression('zstd', 3, '/keep', 4, True),
            process.ProcessLimits(bandwidth=5, nice=6))
        assert parsed(request, 'nice', '-n', '6') == arguments.Arguments(
            socket='/nbd', export='vda', format='qcow2', hash='sha256',
            compression='zstd', threads=3, keep_directory='/keep',
            keep_limit=4, detect_zeroes=True, bandwidth=5, spool='/spool',
            spool_limit=7, spool_reserve=8, captured=ahead.inherited[0])


def test_without_a_codec_nothing_is_said_of_compression():
    request = dataclasses.replace(PLAIN, compression=process.Compression(
        None, 3, '/keep', 4, True))
    assert parsed(request) == dataclasses.replace(
        parsed(PLAIN), detect_zeroes=True)
