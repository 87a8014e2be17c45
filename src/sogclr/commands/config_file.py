"""Read options from a file: TOML, or the settings of a run. Nothing in the file is run."""

import difflib
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from ..common.errors import UserError, one_line
from ..common.options import Augmentation
from ..common.regular_files import open_regular_file
from ..common.stored_fields import ANOTHER_VERSION
from ..runs.kinds import NAMES, kind_of

__all__ = ["read_config"]

LARGEST = 1 << 20  # bytes of a TOML file
LARGEST_INT = 1 << 63
KINDS = {"pretrain": "images", "align": "pairs"}  # of runs, by the command that makes them
WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}


def read_config(path: str | Path, command: str, kinds: Mapping[str, Any]) -> dict[str, Any]:
    """Read values of options.

    Args:
        path: A TOML file; or the settings.json of a run, or its folder. Of a run, the options that
            it was given are read. What it derived is derived again; its data is not taken over.
        command: "pretrain" or "align".
        kinds: The types of the command's options, by name.

    Returns:
        The values by the names of the options in Python.

    Raises:
        UserError: The file cannot be read, an option is unknown, or a value has another type. The
            message names the line.
    """
    file = Path(path, "settings.json") if os.path.isdir(path) else Path(path)
    if file.suffix == ".json":
        text, found = _read_run(file, command)
    elif file.suffix == ".toml":
        text, found = _read_toml(file)
    else:
        raise UserError(f"--config: {file} must end in .toml, or be the settings.json of a run")
    return _Reader(file, text, command).read(found, kinds)


def _read_toml(file: Path) -> tuple[str, dict[str, Any]]:
    try:
        with open_regular_file(file) as opened:
            content = opened.read(LARGEST + 1)
        if len(content) > LARGEST:
            raise UserError(f"--config: {file} is larger than {LARGEST >> 20} MiB")
        text = content.decode()
        return text, tomllib.loads(text)
    except FileNotFoundError:
        raise UserError(f"--config: {file} does not exist; correct the path") from None
    except OSError as error:
        raise UserError(f"--config: {file} cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:  # not UTF-8, or no TOML
        raise UserError(f"--config: {file} is no TOML ({one_line(error)})") from error


def _read_run(file: Path, command: str) -> tuple[str, dict[str, Any]]:
    """Read the options that a run was given; those that it was not given are None there."""
    from ..runs.folder import Run  # imports torch

    if file.name != "settings.json":
        raise UserError(f"--config: {file} must be the settings.json of a run, or end in .toml")
    settings = Run(file.parent).read_settings()
    kind, wanted = kind_of(settings), KINDS[command]
    if kind != wanted:
        raise UserError(f"--config: {file} is of {NAMES[kind]}; give that of {NAMES[wanted]}")
    is_pairs = kind == "pairs"
    asked = settings.get("asked")
    if not isinstance(asked, dict) or (is_pairs and "freeze" not in settings):
        what = "asked" if not isinstance(asked, dict) else "freeze"
        raise UserError(f"--config: {file}: {what!r} is missing; {ANOTHER_VERSION}")
    given = {**asked, "freeze": settings["freeze"]} if is_pairs else asked
    given = {name: value for name, value in given.items() if value is not None}
    return file.read_text(encoding="utf-8"), given


class _Reader:
    """Checks names and values of one file, and says where they stand.

    Args:
        file: The file, for messages.
        text: Its text.
        command: The command whose options it has.
    """

    def __init__(self, file: Path, text: str, command: str) -> None:
        self.file, self.text, self.command = file, text, command

    def read(self, found: Mapping[str, Any], kinds: Mapping[str, Any]) -> dict[str, Any]:
        """Convert the values that were found in the file."""
        values: dict[str, Any] = {}
        for key, value in found.items():
            name = self._name(key, kinds)
            if name in values:
                raise self._error(key, "is given twice")
            if name == "views":
                values[name] = self._views(key, value)
            else:
                values[name] = self._value(key, value, kinds[name])
        return values

    def _views(self, key: str, found: Any) -> Augmentation:
        kinds = {field.name: field.type for field in fields(Augmentation)}
        if not isinstance(found, dict):
            raise self._error(key, f"needs a table with {', '.join(kinds)}")
        given = {name: value for name, value in found.items() if value is not None}
        return Augmentation(**self.read(given, kinds))

    def _name(self, key: str, kinds: Mapping[str, Any]) -> str:
        """Return the name of an option in Python; the command line's own spelling is taken too."""
        name = key.replace("-", "_")
        if name not in kinds:
            near = difflib.get_close_matches(name, kinds, n=1, cutoff=0.5)
            advice = f"did you mean {near[0]}? " if near else ""
            raise self._error(
                key, f"is unknown; {advice}sogclr {self.command} --help lists all options"
            )
        return name

    def _value(self, key: str, value: Any, kind: Any) -> Any:
        """Convert a value to the type of an option."""
        kinds = _plain_kinds(kind)
        if isinstance(value, list) and str in kinds:
            if not all(isinstance(each, str) and "," not in each for each in value):
                raise self._error(key, "needs texts without commas")
            return ",".join(value)
        for each in kinds:
            if get_origin(each) is Literal and value in get_args(each):
                return value
            if each is float and type(value) is int and abs(value) < LARGEST_INT:
                return float(value)
            if type(value) is each:
                return value
        choices = [str(c) for k in kinds if get_origin(k) is Literal for c in get_args(k)]
        words = [WORDS[each] for each in kinds if each in WORDS]
        needed = f"one of {', '.join(choices)}" if choices else " or ".join(words)
        raise self._error(key, f"needs {needed}, got {_shorten(value)}")

    def _error(self, key: str, message: str) -> UserError:
        """Make the error of a key, with the line on which it stands."""
        pattern = rf"""^\s*(?:\[\s*|views\s*\.\s*)?["']?{re.escape(key)}["']?\s*[]=:.]"""
        found = re.search(pattern, self.text, flags=re.MULTILINE)
        line = "" if found is None else f", line {self.text.count(chr(10), 0, found.end()) + 1}"
        return UserError(f"--config: {self.file}{line}: {key} {message}")


def _plain_kinds(kind: Any) -> list[Any]:
    """List the types in a union, without notes for the help and without None."""
    if get_origin(kind) is Annotated:
        return _plain_kinds(get_args(kind)[0])
    if get_origin(kind) in (Union, UnionType):
        return [plain for each in get_args(kind) for plain in _plain_kinds(each)]
    return [] if kind is type(None) else [kind]


def _shorten(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
