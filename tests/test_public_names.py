"""The public names: one table at run time, and the same for type checkers."""

import ast
import subprocess
import sys
from importlib.resources import files

import sogclr


def test_type_checkers_see_what_is_imported_at_run_time():
    tree = ast.parse((files(sogclr) / "__init__.py").read_text())
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    seen = {
        alias.asname: node.module
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert seen == sogclr._HOME


def test_every_public_name_can_be_imported():
    assert sogclr.__all__ == sorted(sogclr.__all__)
    for name in sogclr.__all__:
        assert getattr(sogclr, name).__name__ == name


def test_importing_the_package_imports_nothing_heavy():
    code = "import sys, sogclr; print(sorted({'torch', 'numpy', 'tyro'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "[]\n"


def test_the_package_is_marked_as_typed():
    assert (files(sogclr) / "py.typed").is_file()
