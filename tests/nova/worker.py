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

"""Nova's own unit tests, with our driver where they make Nova's.

``python -m tests.nova.worker`` runs them in a process of its own: Nova's tests
bring a fake libvirt, and eventlet where Nova uses it. It writes one line of
JSON a test, ``[name, outcome, details]``; ``--list`` names them only.
"""

import io
import json
import re
import sys
import tempfile
import unittest

# What runs on our class: all that takes snapshots, freezes, suspends, resumes.
_CHOSEN = re.compile(r"""
    virt\.libvirt\.test_driver\.(
        (LibvirtSnapshotTests|LXCSnapshotTests|LVMSnapshotTests)\..*
        |LibvirtConnTestCase\.test_.*(snapshot|quiesce|suspend|resume).*
        |LibvirtConnTestCase\.test_(driver_capabilities|init_host).*
        |LibvirtVolumeSnapshotTestCase\..*)
    |virt\.test_virt_drivers\.LibvirtConnTestCase\.
        test_(.*snapshot.*|init_host|suspend.*|resume.*|pause|unpause)
    """, re.VERBOSE)

_PREFIX = 'nova.tests.unit.'


class _Substituted:
    """A module, with one class replaced by another.

    The class in the module itself stays: its methods call
    ``super(LibvirtDriver, self)``, which would find ours, and themselves.
    """

    def __init__(self, module, replacement):
        object.__setattr__(self, '_module', module)
        object.__setattr__(self, 'LibvirtDriver', replacement)

    def __getattr__(self, name):
        return getattr(self._module, name)

    def __setattr__(self, name, value):
        # mock patches what is imported there, such as LOG.
        setattr(self._module, name, value)

    def __delattr__(self, name):
        delattr(self._module, name)


def _load():
    """Nova's tests, with our driver in them."""
    import fixtures
    from nova.tests import fixtures as nova_fixtures
    from nova.tests.fixtures import libvirt as fakelibvirt
    from nova.tests.unit.virt.libvirt import test_driver
    from nova.tests.unit.virt import test_virt_drivers
    import nova.virt.libvirt

    # As in Nova's tests, there is no libvirt but the fake one.
    sys.modules['libvirt'] = fakelibvirt

    from oslo_config import cfg

    from nova_snapdriver import conf
    from nova_snapdriver import driver
    # Nova's tests take snapshots in the working directory.
    for _, options in conf.list_opts():
        cfg.set_defaults(options, scratch_directory=tempfile.gettempdir())
    # It turns SQLAlchemy's deprecations into errors: Nova's to mend, not ours.
    nova_fixtures.WarningsFixture = fixtures.Fixture
    test_driver.FakeVirtDomain = _domain(test_driver.FakeVirtDomain)
    test_driver.libvirt_driver = _Substituted(
        test_driver.libvirt_driver, driver.SnapDriver)
    # test_virt_drivers imports "nova.virt.libvirt.LibvirtDriver" by name.
    nova.virt.libvirt.LibvirtDriver = driver.SnapDriver
    loader = unittest.TestLoader()
    for module in (test_driver, test_virt_drivers):
        yield from _flat(loader.loadTestsFromModule(module))


def _domain(fake):
    """Nova's fake domain, whose disk says its format as libvirt's do."""
    class FakeVirtDomain(fake):
        def XMLDesc(self, *args, **kwargs):
            return super().XMLDesc(*args, **kwargs).replace(
                "<source file='filename'/>",
                "<driver name='qemu' type='qcow2'/>"
                "<source file='filename'/>")
    return FakeVirtDomain


def _flat(suite):
    for test in suite:
        if isinstance(test, unittest.TestSuite):
            yield from _flat(test)
        else:
            yield test


def _name(test):
    return test.id().removeprefix(_PREFIX)


def _outcome(test):
    result = unittest.TestResult()
    output, sys.stderr = sys.stderr, io.StringIO()
    try:
        test.run(result)
    finally:
        sys.stderr = output
    for kind in ('errors', 'failures'):
        for _, details in getattr(result, kind):
            return 'failed', details
    for _, reason in result.skipped:
        return 'skipped', reason
    return 'passed', ''


def main():
    answers, sys.stdout = sys.stdout, sys.stderr
    for test in _load():
        if _CHOSEN.fullmatch(_name(test)):
            outcome = (('', '') if '--list' in sys.argv[1:]
                       else _outcome(test))
            print(json.dumps([_name(test), *outcome]), file=answers,
                  flush=True)


if __name__ == '__main__':
    main()
