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

"""Nova's configuration, for subcommands that need it."""

import argparse
import sys

import nova.conf
from oslo_config import cfg
from oslo_log import log as logging

from nova_snapdriver.cmd import base
from nova_snapdriver import conf
from nova_snapdriver import exception
from nova_snapdriver import journal

CONF = nova.conf.CONF

# Its name makes oslo.config read nova-compute.conf after nova.conf.
_SERVICE = 'nova-compute'


class NoFiles(base.CommandError):
    """There is no nova.conf at all."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what load() wants."""
    parser.add_argument(
        '--config-file', action='append', default=[], metavar='PATH',
        help="nova-compute's configuration, may be given more than once; "
             'default: nova.conf and nova-compute.conf, where Nova looks')


def load(args: argparse.Namespace) -> journal.Journal:
    """Read the configuration, and give the journal that it names.

    :raises CommandError: it cannot be read, or has a wrong value
    :raises NoFiles: there is none
    """
    conf.register_opts(CONF)
    logging.register_options(CONF)
    arguments = [word for path in args.config_file
                 for word in ('--config-file', path)]
    try:
        CONF(arguments, project='nova', prog='nova-snapdriver',
             default_config_files=cfg.find_config_files('nova', _SERVICE),
             default_config_dirs=cfg.find_config_dirs('nova', _SERVICE))
        found = journal.Journal(CONF.snapdriver.journal_directory, CONF.host)
    except (cfg.Error, ValueError) as ex:
        raise base.CommandError('configuration: %s' % ex) from ex
    if not CONF.config_file and not CONF.config_dir:
        raise NoFiles(
            'there is no nova.conf where Nova looks for it: name the files of '
            'nova-compute with --config-file')
    return found


def report_unusable(entries: journal.Journal) -> int:
    """Say which entries of a journal are not for this host.

    :returns: the exit status
    :raises CommandError: the journal cannot be read
    """
    try:
        unusable = entries.unusable()
    except exception.JournalUnusable as ex:
        raise base.CommandError(str(ex)) from ex
    for found in unusable:
        print('nova-snapdriver: %s: %s' % (found.path, found.reason),
              file=sys.stderr)
    return int(bool(unusable))
