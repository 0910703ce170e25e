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

"""The processes of a snapshot, by /proc."""

import os
import pathlib


def strays() -> list[str]:
    """Programs that read a disk for a snapshot of the lab.

    Of this mount namespace: another lab, in a container, has the same paths.
    """
    found = []
    ours = os.readlink('/proc/self/ns/mnt')
    for path in pathlib.Path('/proc').glob('[0-9]*/cmdline'):
        try:
            if os.readlink(path.parent / 'ns/mnt') != ours:
                continue
            words = path.read_bytes().replace(b'\0', b' ').decode()
        except OSError:
            continue
        if ('instances/snapshots/' in words
                and words.split('/')[-1] != 'qemu-system-x86_64'
                and 'qemu-system' not in words):
            found.append(words)
    return found
