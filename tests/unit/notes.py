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

"""The notes of a capture, in memory."""


class Notes:
    """What a journal would hold; see :class:`nova_snapdriver.journal.Notes`.

    ``steps`` are the marks as they were set (True) and removed (False).
    """

    def __init__(self):
        self.kept = False
        self.marks = {}
        self.steps = []

    def keep(self):
        self.kept = True

    def mark(self, mark, text=''):
        self.marks[mark] = text
        self.steps.append((mark, True))

    def unmark(self, mark):
        self.marks.pop(mark, None)
        self.steps.append((mark, False))

    def marked(self, mark):
        return self.marks.get(mark)
