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

"""What the commands have in common about snapshots without Nova."""

import argparse
import os

import nova.conf
import nova.privsep

from nova_snapdriver.cmd import conffiles
from nova_snapdriver import conf
from nova_snapdriver import journal
from nova_snapdriver.local import snapshot

CONF = nova.conf.CONF

DIRECTORY = '/var/lib/nova-snapdriver'
JOURNAL = os.path.join(DIRECTORY, 'journal')
SCRATCH = os.path.join(DIRECTORY, 'scratch')
URI = 'qemu:///system'


def add_journal(parser: argparse.ArgumentParser) -> None:
    """Declare where the journal is."""
    parser.add_argument(
        '--journal-directory', metavar='PATH', default=JOURNAL,
        help='where snapshots without Nova are noted, for a recovery; '
             'default: %(default)s')


def add_connect(parser: argparse.ArgumentParser) -> None:
    """Declare which libvirt is asked."""
    parser.add_argument(
        '--connect', metavar='URI',
        default=os.environ.get('LIBVIRT_DEFAULT_URI', URI),
        help='the libvirt of this host; default: %(default)s')


def journals(args: argparse.Namespace
             ) -> tuple[journal.Journal, journal.Journal | None]:
    """The journal of snapshots without Nova, and nova-compute's.

    The latter is none where there is no nova.conf, but the former is there.

    :raises CommandError: nova.conf has an error, or there is no journal
    """
    ours = snapshot.entries_of(args.journal_directory)
    try:
        return ours, conffiles.load(args)
    except conffiles.NoFiles:
        if not os.path.isdir(args.journal_directory):
            raise
        return ours, None


def configure(scratch_directory: str = SCRATCH) -> None:
    """Have the defaults of all options; no nova.conf is looked for.

    Privileged calls are made here: this is root.
    """
    conf.register_opts(CONF)
    CONF([], project='nova', default_config_files=[], default_config_dirs=[])
    CONF.set_override('scratch_directory', scratch_directory, 'snapdriver')
    nova.privsep.sys_admin_pctxt.set_client_mode(False)
