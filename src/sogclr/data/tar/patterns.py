"""Find the tar shards that a path, a pattern with braces, or a folder stands for."""

import os
import re
from pathlib import Path

from ...common.errors import UserError
from ..decode import SUFFIXES

__all__ = ["compressed_shard", "expand_braces", "find_shards"]

_COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")


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
        UserError: some or all shards of the pattern are missing, or a shard is compressed.
    """
    pattern, path = str(data), Path(data)
    if os.path.isdir(path):  # Path.is_dir raises if the pattern is too long for a file name
        return _shards_in(path)
    if pattern.lower().endswith(_COMPRESSED):
        raise compressed_shard(path)
    if path.suffix.lower() != ".tar":
        return None
    expected = [path] if os.path.exists(path) else [Path(name) for name in expand_braces(pattern)]
    missing = [shard for shard in expected if not shard.exists()]
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
    """
    braces = _BRACES.search(pattern)
    if braces is None:
        return [pattern]
    before, after = pattern[: braces.start()], pattern[braces.end() :]
    bounds = _RANGE.fullmatch(braces[1])
    choices = braces[1].split(",") if bounds is None else _numbers(*bounds.groups())
    return [name for choice in choices for name in expand_braces(before + choice + after)]


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


def _numbers(first: str, last: str) -> list[str]:
    padded = any(bound.startswith("0") and len(bound) > 1 for bound in (first, last))
    width = max(len(first), len(last)) if padded else 0
    return [f"{number:0{width}}" for number in range(int(first), int(last) + 1)]
