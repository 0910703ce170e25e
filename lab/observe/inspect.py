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

"""Check an image of the guest's disk without booting it.

It makes the checks that the guest makes when it boots; see guest-init.sh.
"""

import hashlib
import pathlib
import shutil
import subprocess

from lab.openstack import process
from lab.openstack import settings

# e2fsck's exit status when it has repaired something.
REPAIRED = 1


def image(path: pathlib.Path, disk_format: str, folder: pathlib.Path,
          replay: bool) -> tuple[int, str]:
    """Check a guest's image.

    :param folder: for a raw copy and its files; removed in the end
    :param replay: replay the file system's journal first, as a kernel does:
        the guest was not frozen
    :returns: the number of the round that it holds, and what is wrong, if
        anything
    """
    shutil.rmtree(folder, ignore_errors=True)
    raw, files = folder / 'raw', folder / 'files'
    files.mkdir(parents=True)
    try:
        process.output('qemu-img', 'convert', '-f', disk_format, '-O', 'raw',
                       path, raw)
        wrong = _check_file_system(raw, replay)
        if wrong:
            return 0, wrong
        process.output('debugfs', '-R', f'rdump / {files}', raw)
        try:
            return _check_files(files)
        except (OSError, ValueError) as error:
            return 0, f'a file is missing or damaged: {error}'
    finally:
        shutil.rmtree(folder)


def _check_file_system(raw: pathlib.Path, replay: bool) -> str:
    mode = '-fy' if replay else '-fn'
    done = subprocess.run(['e2fsck', mode, raw], text=True,
                          capture_output=True, env=settings.environment())
    if done.returncode in ((0, REPAIRED) if replay else (0,)):
        return ''
    return f'e2fsck {mode}: {done.stdout}'


def _check_files(files: pathlib.Path) -> tuple[int, str]:
    a, b = (int((files / name).read_text()) for name in 'ab')
    lines = [int(line) for line in
             (files / 'journal').read_text().splitlines()]
    wrong = []
    if not 0 <= a - b <= 1:
        wrong.append(f'a={a} b={b}')
    if not lines or lines != list(range(lines[0], lines[-1] + 1)):
        wrong.append('the journal has gaps')
    elif not 0 <= lines[-1] - a <= 1:
        wrong.append(f'a={a} journal={lines[-1]}')
    wrong += _wrong_hashes(files)
    return b, ', '.join(wrong)


def _wrong_hashes(files: pathlib.Path) -> list[str]:
    wrong = []
    for line in (files / 'payload.md5').read_text().splitlines():
        known, name = line.split()
        with open(files / name, 'rb') as file:
            if hashlib.file_digest(file, 'md5').hexdigest() != known:
                wrong.append(f'{name} is damaged')
    return wrong
