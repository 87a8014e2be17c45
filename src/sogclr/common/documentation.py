"""Read what stands in the source about the fields of a dataclass, for help texts."""

import ast
import sys
from functools import cache
from pathlib import Path

__all__ = ["field_docs"]


def field_docs(settings: type) -> dict[str, str]:
    """Read the docstring that stands under each field of a dataclass.

    Python does not keep these docstrings, so they are read from the source file.

    Args:
        settings: A dataclass. The docstring of a subclass replaces that of its base class.

    Returns:
        Field name to docstring, as one line. Empty if the source is not there.
    """
    docs: dict[str, str] = {}
    for base in reversed(settings.__mro__):
        docs |= _docs_in_module(base.__module__).get(base.__qualname__, {})
    return docs


@cache
def _docs_in_module(module: str) -> dict[str, dict[str, str]]:
    """Read the field docstrings of all classes in a module: class name to field name to text."""
    path = getattr(sys.modules.get(module), "__file__", None)
    if path is None or not Path(path).is_file():
        return {}
    tree = ast.parse(Path(path).read_text(encoding="utf-8"))
    return {node.name: _docs_in_class(node) for node in tree.body if isinstance(node, ast.ClassDef)}


def _docs_in_class(node: ast.ClassDef) -> dict[str, str]:
    docs = {}
    for field, text in zip(node.body, node.body[1:], strict=False):
        if not (isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)):
            continue
        if not (isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant)):
            continue
        if isinstance(text.value.value, str):
            docs[field.target.id] = " ".join(text.value.value.split())
    return docs
