"""Find the tar shards that a path, a pattern with braces, or a folder stands for."""

import os
import re
from collections.abc import Iterator, Sequence
from itertools import product
from math import prod
from pathlib import Path

from ...common.errors import UserError
from ..decode import SUFFIXES

__all__ = ["compressed_shard", "expand_braces", "find_shards"]

_COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")

MOST_SHARDS = 1_000_000  # names of a pattern; the largest public data sets have a quarter of that
_LONGEST_NUMBER = 255  # digits, as many as a file's name can have


def find_shards(data: str | Path) -> list[Path] | None:
    """Find the shards that `data` names.

    Args:
        data: a `.tar` file, a pattern with braces such as `photos-{000..099}.tar` or
            `{train,val}-{0..9}.tar`, or a folder with `.tar` files and with neither sub-folders
            nor images.

    Returns:
        Existing files, in the order of the pattern or of their names. None if `data` is of
        another kind.

    Raises:
        UserError: some or all shards of the pattern are missing, a shard is compressed, or the
            pattern stands for too many names.
    """
    pattern, path = str(data), Path(data)
    if os.path.isdir(path):  # Path.is_dir raises if the pattern is too long for a file name
        return _shards_in(path)
    if pattern.lower().endswith(_COMPRESSED):
        raise compressed_shard(path)
    if path.suffix.lower() != ".tar":
        return None
    expected = [path] if os.path.exists(path) else [Path(name) for name in expand_braces(pattern)]
    missing = [shard for shard in expected if not os.path.exists(shard)]
    if len(missing) == len(expected):
        raise UserError(f"data: no shard matches {pattern}; give tar files on this machine")
    if missing:
        raise UserError(
            f"data: {len(missing):,} of the {len(expected):,} shards {pattern} are missing "
            f"(the first, {missing[0]}); add them, or give a pattern of the existing ones"
        )
    return expected


def expand_braces(pattern: str) -> list[str]:
    """List every name that a pattern stands for; the last braces vary fastest.

    Args:
        pattern: may hold ranges `{000..099}` and choices `{train,val}`.

    Raises:
        UserError: the pattern stands for more than `MOST_SHARDS` names.
    """
    names = [pattern]
    while any(map(_BRACES.search, names)):  # again for braces within braces
        names = [name for each in names for name in _expand_once(each)]
        _require_few(len(names), pattern)
    return names


def _expand_once(pattern: str) -> Iterator[str]:
    """Expand the braces of a pattern that hold no other braces."""
    # Odd elements are the insides of braces, even ones the text between them.
    elements = _BRACES.split(pattern)
    choices: list[Sequence[str]] = [[text] for text in elements]
    for place in range(1, len(elements), 2):
        bounds = _RANGE.fullmatch(elements[place])
        choices[place] = (
            elements[place].split(",")
            if bounds is None
            else _numbers(bounds[1], bounds[2], pattern)
        )
        _require_few(prod(map(len, choices)), pattern)
    return map("".join, product(*choices))


def _require_few(count: int, pattern: str) -> None:
    if count > MOST_SHARDS:
        raise UserError(
            f"data: the pattern {_shorten(pattern)} stands for more than {MOST_SHARDS:,} shards; "
            "check its ranges"
        )


def _shorten(pattern: str) -> str:
    # A URL's query and password may be secrets: name the braces alone.
    braces = " ".join(match[0] for match in _BRACES.finditer(pattern.partition("?")[0]))
    return braces if len(braces) <= 80 else braces[:77] + "..."


def compressed_shard(path: Path) -> UserError:
    """Make the error for a compressed shard."""
    return UserError(f"data: {path} is compressed; unpack it: samples are read in random order")


def _shards_in(folder: Path) -> list[Path] | None:
    shards, compressed = [], []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                name = entry.name.lower()
                if name.startswith("."):
                    continue
                if entry.is_dir() or name.endswith(SUFFIXES):
                    return None
                if name.endswith(".tar"):
                    shards.append(Path(entry.path))
                elif name.endswith(_COMPRESSED):
                    compressed.append(Path(entry.path))
    except OSError:
        return None
    if compressed:
        raise compressed_shard(min(compressed))
    return sorted(shards) or None


def _numbers(first: str, last: str, pattern: str) -> list[str]:
    padded = any(bound.startswith("0") and len(bound) > 1 for bound in (first, last))
    width = max(len(first), len(last)) if padded else 0
    if max(len(first), len(last)) > _LONGEST_NUMBER:
        raise UserError(
            f"data: the pattern has a range of numbers of more than {_LONGEST_NUMBER} digits"
        )
    _require_few(int(last) - int(first) + 1, pattern)
    return [f"{number:0{width}}" for number in range(int(first), int(last) + 1)]
