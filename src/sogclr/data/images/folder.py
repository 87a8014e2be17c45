"""A folder of image files, labelled by its sub-folders."""

import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ...common.errors import UserError
from ...common.regular_files import open_regular_file
from ..decode import SUFFIXES, reason_of
from ..image_source import NO_LABEL, SHOWN, summarize
from .files import ImageFiles, read_headers

__all__ = ["FolderSource"]

_RUN_FILE = "settings.json"  # marks the folder of a run, if it has `_RUN_KEYS`
_RUN_KEYS = {"asked", "resolved"}
_LARGEST_SETTINGS = 1 << 20  # bytes


class FolderSource(ImageFiles):
    """Every image file below a folder, sorted by relative path.

    If there are two or more sub-folders, the first level of sub-folders is the label. Images beside
    these sub-folders have no label. Folders of runs, and the pictures that this package wrote, are
    passed over; `describe` names them.

    Args:
        root: the folder.

    Raises:
        UserError: the folder does not exist, is a run, has no images, or none that can be read.
    """

    def __init__(self, root: Path) -> None:
        # Methods of Path raise an error if a name is too long.
        if not os.path.isdir(root):
            what = "is not a folder" if os.path.exists(root) else "does not exist"
            raise UserError(f"data: {root} {what}; give a folder of images, or the name digits")
        found = _search(root)
        if found.runs == ["."]:
            raise UserError(f"data: {root} is the folder of a run; give the folder of the images")
        headers = read_headers(root, sorted(found.images))
        own = [name for name, header in headers.items() if header.own]
        names = [name for name, header in headers.items() if not header.own]
        self._passed_over = found.describe_passed_over(own)
        if not names:
            unreadable = "; ".join(f"{name}: {reason}" for name, reason in found.unreadable[:SHOWN])
            details = "; ".join(filter(None, [unreadable, self._passed_over]))
            raise UserError(
                f"data: no {', '.join(SUFFIXES)} files in {root} or its sub-folders"
                + (f" ({details})" if details else "")
            )
        super().__init__(root, names, headers)
        if not self.names:
            name, reason = self.left_out[0]
            raise UserError(
                f"data: none of the {len(names):,} files in {root} can be read as an image "
                f"(the first, {name}: {reason})"
            )
        self.left_out += found.unreadable
        self.damaged += [f"{name}: {reason}" for name, reason in found.unreadable]
        self.labels, self.classes = _derive_labels(self.names)

    def describe(self) -> str:
        text = f"{self._root}: {len(self):,} images"
        if self.classes is not None:
            text += f" in {len(self.classes)} sub-folders, taken as labels ("
            text += ", ".join(self.classes[:4]) + (", ...)" if len(self.classes) > 4 else ")")
        text += self._describe_unlabelled() + self._describe_left_out()
        return text + (f"; passed over: {self._passed_over}" if self._passed_over else "")

    def _describe_unlabelled(self) -> str:
        if self.labels is None:
            return ""
        names = [self.names[row] for row in np.flatnonzero(self.labels == NO_LABEL).tolist()]
        return f"; no label: {len(names):,} beside them ({summarize(names)})" if names else ""


@dataclass
class _Found:
    """What a search of a folder found, by relative paths with forward slashes.

    Attributes:
        images: files whose suffix is one of `SUFFIXES`.
        runs: folders of runs.
        unreadable: `(name, reason)` of folders that cannot be listed.
        others: number of other files, by suffix.
        hidden: number of image files whose own name, or whose folder's name, hides them.
    """

    images: list[str] = field(default_factory=list)
    runs: list[str] = field(default_factory=list)
    unreadable: list[tuple[str, str]] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)
    hidden: int = 0

    def describe_passed_over(self, own: Sequence[str]) -> str:
        """Name what is passed over; `own` are pictures that this package wrote."""
        parts = [f"{run} (the folder of a run)" for run in self.runs[:SHOWN]]
        parts += [f"{name} (written by sogclr)" for name in own[:SHOWN]]
        more = max(0, len(self.runs) - SHOWN) + max(0, len(own) - SHOWN)
        if more:
            parts.append(f"{more:,} more of these")
        if self.hidden:
            parts.append(f"{self.hidden:,} hidden images")
        kinds = self.others.most_common()
        parts += [f"{count:,} {suffix or 'without a suffix'}" for suffix, count in kinds[:SHOWN]]
        if len(kinds) > SHOWN:
            parts.append(f"{sum(count for _, count in kinds[SHOWN:]):,} other files")
        return ", ".join(parts)


def _search(root: Path) -> _Found:
    """Search a folder and its sub-folders; links to folders are followed."""
    found = _Found()

    def note(error: OSError) -> None:
        name = os.path.relpath(error.filename, root).replace(os.sep, "/")
        found.unreadable.append((f"{name}/", reason_of(error)))

    visited = set()
    for folder, subfolders, files in os.walk(root, followlinks=True, onerror=note):
        real = os.path.realpath(folder)
        relative = os.path.relpath(folder, root).replace(os.sep, "/")
        if real in visited:  # a link to a folder above would never end
            subfolders.clear()
            continue
        visited.add(real)
        if _RUN_FILE in files and _is_run(Path(folder)):
            subfolders.clear()
            found.runs.append(relative)
            continue
        prefix = "" if relative == "." else relative + "/"
        is_hidden = any(_hides(part) for part in relative.split("/") if relative != ".")
        for file in files:
            if file.lower().endswith(SUFFIXES):
                if is_hidden or _hides(file):
                    found.hidden += 1
                else:
                    found.images.append(prefix + file)
            elif not (is_hidden or _hides(file)):
                found.others[os.path.splitext(file)[1].lower()] += 1
    return found


def _hides(name: str) -> bool:
    """Tell whether a name hides a file or folder, such as those that macOS adds to archives."""
    return name.startswith((".", "__MACOSX"))


def _is_run(folder: Path) -> bool:
    """Tell whether a folder has the settings of a run."""
    try:
        with open_regular_file(folder / _RUN_FILE) as file:
            settings = json.loads(file.read(_LARGEST_SETTINGS))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(settings, dict) and settings.keys() >= _RUN_KEYS


def _derive_labels(names: Sequence[str]) -> tuple[np.ndarray | None, list[str] | None]:
    """Return the labels `(n,)` and the names of the classes; None if there are no sub-folders."""
    folders = [name.split("/", 1)[0] if "/" in name else None for name in names]
    classes = sorted({folder for folder in folders if folder is not None})
    if not 2 <= len(classes) < len(names) - folders.count(None):
        return None, None
    number: dict[str | None, int] = {name: i for i, name in enumerate(classes)}
    labels = [number.get(folder, NO_LABEL) for folder in folders]
    return np.array(labels, dtype=np.int64), classes
