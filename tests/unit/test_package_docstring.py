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

"""The example in the package's docstring; tests/functional runs it."""

import ast
import doctest
import inspect
import pkgutil
import re
import types

import nova_snapdriver

SOURCES = [example.source for example in doctest.DocTestParser().get_examples(
    nova_snapdriver.__doc__)]


def test_there_is_an_example():
    assert len(SOURCES) >= 5


def test_every_name_is_there_and_every_call_fits():
    names = {}
    tree = ast.parse(''.join(SOURCES))
    for node in tree.body:
        if isinstance(node, ast.ImportFrom):
            exec(compile(ast.Module([node], []), 'example', 'exec'), names)
    modules = {name for name, value in names.items()
               if isinstance(value, types.ModuleType)}
    used = set()
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Attribute(ast.Name(module), name),
                          args=given, keywords=[]) if module in modules:
                used.add(module)
                called = inspect.signature(getattr(names[module], name))
                called.bind(*given)
    assert used == modules


def test_what_is_referred_to_is_there():
    found = re.findall(r':(?:func|class):`([\w.]+)`', nova_snapdriver.__doc__)
    assert len(found) == 3
    assert all(callable(pkgutil.resolve_name(name)) for name in found)
