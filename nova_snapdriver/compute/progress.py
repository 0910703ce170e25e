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

"""The progress of a snapshot, where its owner looks: at the server."""

from collections.abc import Iterator
import contextlib

import nova.conf
from oslo_log import log as logging

from nova_snapdriver.compute import running
from nova_snapdriver import database
from nova_snapdriver import journal

LOG = logging.getLogger(__name__)
CONF = nova.conf.CONF


def show(snapshot: running.Snapshot) -> None:
    """Show how far the upload of a snapshot is.

    :raises Exception: the database does not answer
    """
    if snapshot.percent:
        database.show_progress(snapshot.uuid, CONF.host, snapshot.percent)


@contextlib.contextmanager
def cleared(snapshot: running.Snapshot,
            record: journal.Record) -> Iterator[None]:
    """Show no progress any more after the block; never raises.

    :param record: kept for a recovery if the database does not answer
    """
    try:
        yield
    finally:
        try:
            database.show_progress(snapshot.uuid, CONF.host, 0)
        except Exception as ex:
            record.keep()
            LOG.warning('The progress of server %(uuid)s is cleared later: '
                        '%(error)s', {'uuid': snapshot.uuid, 'error': ex})
