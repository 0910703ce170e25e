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

"""Put a module beside Nova's own drivers, so that Nova finds this one.

nova.virt.driver.load_compute_driver imports nova.virt.<compute_driver> and
looks nowhere else. The module that is written there is one line long: all of
the code stays in nova_snapdriver.
"""

import argparse
from collections.abc import Iterator
import contextlib
from importlib import util
import os
import pathlib
import pwd
import subprocess
import sys
import tempfile

from nova_snapdriver.cmd import base

MODULE_NAME = 'snapdriver.py'
MODULE_TEXT = 'from nova_snapdriver.driver import SnapDriver\n'
MODULE_MODE = 0o644  # nova-compute reads it as a user of its own.

# Importing Nova's libvirt driver takes 3 seconds on an idle machine.
CHECK_TIMEOUT = 120  # seconds

NOVA_CONF = """\
In nova.conf of this compute host:

    [DEFAULT]
    compute_driver = snapdriver.SnapDriver

Then restart nova-compute."""

# Run by the same interpreter, in a process of its own: what it imports is
# large, and this process must not keep what an import has half done.
CHECK_SCRIPT = """\
import sys
try:
    from nova.virt.libvirt import driver
    from nova.virt import snapdriver
except Exception as error:
    sys.exit(f'{type(error).__name__}: {error}')
if not issubclass(snapdriver.SnapDriver, driver.LibvirtDriver):
    sys.exit('SnapDriver is not a LibvirtDriver')
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare --check and --remove, of which at most one is given."""
    group = parser.add_mutually_exclusive_group()
    group.add_argument(
        '--check', action='store_true',
        help='exit with 0 if Nova can load the driver, with 1 and the reason '
             'if not; change nothing')
    group.add_argument(
        '--remove', action='store_true', help='undo the registration')


def run(args: argparse.Namespace) -> int:
    """Register, check or remove, as the arguments say."""
    module = find_drivers() / MODULE_NAME
    if args.check:
        check(module)
        print(f'{module} is registered and can be loaded')
    elif args.remove:
        print(f'{module} removed' if remove(module)
              else f'{module} was not registered: nothing to remove')
    else:
        print(f'{module} written' if register(module)
              else f'{module} is already registered')
        print(NOVA_CONF)
    return 0


def find_drivers() -> pathlib.Path:
    """Return the directory of Nova's own compute drivers.

    nova.virt.driver is looked up rather than nova.virt: the way to it runs
    through whatever Nova was installed with (a finder of an editable
    installation, a .pth file, several portions of a namespace), and it is
    always in the directory that Nova loads drivers from. Of Nova, this
    imports the two packages nova and nova.virt alone, which are empty.

    :raises CommandError: if this interpreter has no nova.
    """
    try:
        spec = util.find_spec('nova.virt.driver')
    except ImportError:
        spec = None
    if spec is None or not spec.has_location or not spec.origin:
        raise base.CommandError(
            f'{sys.executable} has no nova: install nova-snapdriver where '
            'nova-compute is installed (Debian and Ubuntu: python3-nova, '
            'RHEL: python3-nova, PyPI: nova)')
    return pathlib.Path(spec.origin).parent.resolve()


def register(module: pathlib.Path) -> bool:
    """Write the module; return whether it had to be written.

    :raises CommandError: if something else is there, or if it can't be
        written.
    """
    if _is_registered(module):
        return False
    with _writing(module.parent):
        _write(module)
    return True


def remove(module: pathlib.Path) -> bool:
    """Remove the module and its byte code; return whether it was there.

    :raises CommandError: if something else is there, or if it can't be
        removed.
    """
    registered = _is_registered(module)
    with _writing(module.parent):
        if registered:
            module.unlink()
        if not os.path.lexists(module):
            _remove_bytecode(module)
    return registered


def check(module: pathlib.Path) -> None:
    """Return if Nova can load the driver.

    :raises CommandError: with the reason if it can't.
    """
    if not _is_registered(module):
        raise base.CommandError(
            f'{module} does not exist: run nova-snapdriver register')
    # -P: the current directory is no part of what nova-compute sees.
    command = [sys.executable, '-P', '-W', 'ignore', '-c', CHECK_SCRIPT]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True,
                       timeout=CHECK_TIMEOUT)
    except subprocess.CalledProcessError as error:
        reason = (error.stderr.strip().splitlines() or [str(error)])[-1]
        raise base.CommandError(
            f'{module} is registered, but can not be loaded: {reason}'
        ) from error
    except subprocess.TimeoutExpired as error:
        raise base.CommandError(
            f'{module} is registered, but loading it took longer than '
            f'{CHECK_TIMEOUT} seconds') from error


def _is_registered(module: pathlib.Path) -> bool:
    """Whether our module is there; another one's file is an error."""
    if not os.path.lexists(module):
        return False
    if module.is_symlink() or not module.is_file():
        text = ''
    else:
        text = _read(module)
    if text != MODULE_TEXT:
        raise base.CommandError(
            f'{module} was not written by nova-snapdriver and is left as it '
            'is: move it away if nothing needs it')
    return True


def _read(module: pathlib.Path) -> str:
    try:
        return module.read_text(errors='replace')
    except OSError as error:
        raise base.CommandError(
            f'{module} can not be read: {error.strerror}') from error


def _write(module: pathlib.Path) -> None:
    """Write the module at once or not at all."""
    descriptor, name = tempfile.mkstemp(
        prefix=f'.{module.name}.', dir=module.parent)
    try:
        with open(descriptor, 'w') as file:
            file.write(MODULE_TEXT)
            os.fchmod(descriptor, MODULE_MODE)
            file.flush()
            os.fsync(descriptor)
        os.replace(name, module)
    except BaseException:
        os.unlink(name)
        raise


def _remove_bytecode(module: pathlib.Path) -> None:
    """Remove what any version or level of optimisation compiled."""
    cache = pathlib.Path(util.cache_from_source(str(module))).parent
    for bytecode in cache.glob(f'{module.stem}.*.pyc'):
        bytecode.unlink(missing_ok=True)


@contextlib.contextmanager
def _writing(directory: pathlib.Path) -> Iterator[None]:
    """Say who may write to the directory where the caller may not."""
    try:
        yield
    except OSError as error:
        raise base.CommandError(
            f'{directory} can not be written to ({error.strerror}): run this '
            f'as {_owner(directory)}') from error


def _owner(path: pathlib.Path) -> str:
    uid = path.stat().st_uid
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f'the user with the id {uid}'
