"""Read and write the files of a run: formats, digests, and JSON that may come from strangers."""

import json
import math
from collections.abc import Callable
from hashlib import blake2b, file_digest
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from ..common.errors import UserError, one_line
from ..common.regular_files import open_regular_file
from ..common.stored_fields import ANOTHER_VERSION
from ..common.whole_files import replace_file

__all__ = [
    "FORMAT",
    "LARGEST_JSON",
    "Digests",
    "atomically",
    "format_json",
    "read_json",
    "require_format",
    "write_json",
]

# The version of the files of a run. Increase it whenever an older sogclr would misread them.
FORMAT = 1
LARGEST_JSON = 1 << 24  # bytes; a run with all options writes some thousand
LARGEST_INT = 1 << 63
TRIES = 3  # to read a file and its digest while another process replaces both


def format_json(data: dict[str, Any]) -> str:
    """Format data as indented JSON."""
    return json.dumps(data, indent=2) + "\n"


def atomically(
    target: Path,
    write: Callable[[Path], object],
    advice: str = "make room on the disk and go on with --resume",
) -> None:
    """Write a file whole or not at all, see `sogclr.common.whole_files.replace_file`.

    Args:
        target: the path of the file.
        write: writes the content to the path that it is given.
        advice: what a user can do if the file cannot be written.

    Raises:
        UserError: the disk is full or fails; a previous file stays intact.
    """
    try:
        replace_file(target, write)
    # torch and safetensors raise their own errors when the disk fails.
    except (OSError, RuntimeError, SafetensorError) as error:
        # Not an error of the disk: torch raises this one in whatever code runs when a worker dies.
        if "DataLoader worker" in str(error):
            raise
        kept = f"; the last {target.name} is intact" if target.exists() else ""
        reason = getattr(error, "strerror", None) or one_line(error)
        raise UserError(f"--out: could not write {target} ({reason}){kept}; {advice}") from error


def write_json(target: Path, data: dict[str, Any]) -> None:
    """Write JSON with the number of its format."""
    text = format_json({"format": FORMAT, **data})
    atomically(target, lambda path: path.write_text(text, encoding="utf-8"))


def read_json(path: Path) -> dict[str, Any]:
    """Read an object from JSON, which may come from a stranger.

    Returns:
        The object without the number of its format.

    Raises:
        UserError: the file is missing, damaged or of another format.
    """
    try:
        with open_regular_file(path) as file:
            content = file.read(LARGEST_JSON + 1)
        if len(content) > LARGEST_JSON:
            raise ValueError(f"it is larger than {LARGEST_JSON >> 20} MiB")
        data = json.loads(
            content.decode(),
            parse_constant=_parse_float,
            parse_float=_parse_float,
            parse_int=_parse_int,
        )
        if not isinstance(data, dict):
            raise ValueError("it is no object")
    except FileNotFoundError:
        raise UserError(f"run: {path} is missing; put the file back") from None
    except OSError as error:
        raise UserError(f"run: {path} cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"run: {path} is damaged ({one_line(error)})") from error
    require_format(data, path)
    return {key: value for key, value in data.items() if key != "format"}


def require_format(data: dict[str, Any], path: Path) -> None:
    """Raise UserError if a file was written in the format of another version."""
    if (number := data.get("format", FORMAT)) != FORMAT:
        raise UserError(
            f"run: {path} has format {str(number)[:20]}, but this version of sogclr reads format "
            f"{FORMAT}; {ANOTHER_VERSION}"
        )


class Digests:
    """The digests of a run's files, by which a file that has changed is found.

    A file and its digest cannot be replaced at once. So the digest of the new file is stored first,
    beside that of the old file, and either digest is accepted.

    Args:
        path: the file of the digests, `{name: [digest, ...]}`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._written: dict[str, str] = {}

    def write(self, target: Path, write: Callable[[Path], object]) -> None:
        """Write a file whole, and its digest before it gets its name.

        Raises:
            UserError: the disk is full or fails; a previous file stays intact.
        """
        name, written = target.name, ""

        def write_and_store(path: Path) -> None:
            nonlocal written
            write(path)
            written = _digest(path)
            known = self._read()
            before = [self._written[name]] if name in self._written else known.get(name, [])
            write_json(self.path, {**known, name: [written, *before]})

        atomically(target, write_and_store)
        self._written[name] = written

    def verify(self, path: Path) -> None:
        """Raise UserError if the content of a file is not what was written.

        A file without a digest is accepted: a person may have removed the digests.
        """
        for _ in range(TRIES):
            found, known = _digest(path), self._read().get(path.name, [])
            if not known or found in known:
                return
        raise UserError(
            f"run: {path} is not the file that was written: it is damaged, or was replaced; put "
            f"back a copy, or delete {path.name} from {self.path.name} if you replaced it"
        )

    def _read(self) -> dict[str, list[str]]:
        if not self.path.exists():
            return {}
        known = read_json(self.path)
        if not all(isinstance(digests, list) for digests in known.values()):
            raise UserError(f"run: {self.path} is damaged; delete it to go on without digests")
        return known


def _digest(path: Path) -> str:
    try:
        with open_regular_file(path) as file:
            opened: Any = file  # typed as the abstract class, which lacks `readinto`
            return file_digest(opened, lambda: blake2b(digest_size=16)).hexdigest()
    except OSError as error:
        raise UserError(f"run: {path} cannot be read ({error.strerror})") from error


def _parse_float(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise ValueError(f"{text[:20]} is no finite number")
    return value


def _parse_int(text: str) -> int:
    if abs(value := int(text)) > LARGEST_INT:
        raise ValueError("an integer has more than 64 bits")
    return value
