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

"""Native threads of our own, in processes with and without eventlet."""

import importlib.metadata
import os
import subprocess
import sys

import pytest

ALWAYS_EVENTLET = importlib.metadata.version('nova') < '32'
# As nova-compute begins; Nova 31 patches on import.
BEGIN = '''
import nova.monkey_patch
getattr(nova.monkey_patch, 'patch', lambda: None)()
import os, threading, time
from nova import utils
from nova_snapdriver import compat, threadpool

def main():
%s
main()
'''


def run(body, **environment):
    """Run a function's body in a process of its own."""
    lines = '\n'.join('    ' + line for line in body.strip().splitlines())
    done = subprocess.run(
        [sys.executable, '-c', BEGIN % lines], text=True, timeout=120,
        capture_output=True, env={**os.environ, **environment})
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def under_eventlet(body):
    return run(body, OS_NOVA_DISABLE_EVENTLET_PATCHING='0',
               EVENTLET_THREADPOOL_SIZE='3')


def test_transfers_leave_libvirt_its_threads():
    """Five of them wait, and eventlet has three native threads."""
    assert under_eventlet('''
pipes = [os.pipe() for _ in range(5)]
read = compat.tpool().patcher.original('os').read
results = []
threads = [threading.Thread(
    target=lambda end=end: results.append(threadpool.call(read, end, 1)))
    for end, _ in pipes]
for thread in threads:
    thread.start()
print(compat.tpool().execute(lambda: 'libvirt'))
print(len(results))
for _, end in pipes:
    os.write(end, b'x')
for thread in threads:
    thread.join()
print(*(one.decode() for one in results))
''') == ['libvirt', '0', *'xxxxx']


def test_a_thread_is_used_again():
    assert under_eventlet('''
native = compat.tpool().threading
names = {threadpool.call(native.get_ident) for _ in range(20)}
print(len(names), native.get_ident() in names)
''') == ['1', 'False']


def test_nothing_is_left_open():
    """With sockets, as an upload has: a native thread has a hub of its own."""
    assert under_eventlet('''
def work():
    import socket
    a, b = socket.socketpair()
    with a, b:
        a.sendall(b'x')
        time.sleep(0.001)
        return b.recv(1)

threadpool.call(work)
before = len(os.listdir('/proc/self/fd'))
for _ in range(20):
    threadpool.call(work)
print(len(os.listdir('/proc/self/fd')) - before)
''') == ['0']


def test_an_error_is_raised_where_it_is_waited_for():
    assert under_eventlet('''
for _ in range(2):
    try:
        threadpool.call(int, 'x')
    except ValueError as ex:
        print(type(ex).__name__)
''') == ['ValueError', 'ValueError']


@pytest.mark.skipif(ALWAYS_EVENTLET, reason='Nova 31 has no other mode')
def test_without_eventlet_it_is_a_plain_call():
    assert run('''
print(compat.tpool(), threadpool.call(threading.get_ident)
      == threading.get_ident())
''', OS_NOVA_DISABLE_EVENTLET_PATCHING='1') == ['None', 'True']
