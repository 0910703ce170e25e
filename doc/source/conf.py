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

import pathlib
import sys

# commands.py, from which the page of the commands is made.
sys.path.insert(0, str(pathlib.Path(__file__).parent))

project = 'nova-snapdriver'
copyright = 'nova_snapdriver contributors'

extensions = [
    'openstackdocstheme',
    'oslo_config.sphinxext',
    'sphinxarg.ext',
]

# The theme would link to pages that this project does not have.
openstackdocs_auto_name = False
openstackdocs_pdf_link = False
openstackdocs_bug_project = ''
openstackdocs_use_storyboard = False

html_theme = 'openstackdocs'
html_static_path = ['_static']
pygments_style = 'native'

man_pages = [('cli', project, 'look after the snapshot driver of a compute'
              ' host', [], 8)]
