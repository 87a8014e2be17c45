"""A folder of image files, labelled by its sub-folders."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from ...common.errors import UserError
from ..decode import SUFFIXES
from .files import ImageFiles

__all__ = ["FolderSource"]


class FolderSource(ImageFiles):
    """Every JPEG, PNG and WebP file below a folder, sorted by relative path.

    If all files lie in two or more sub-folders, the first level of sub-folders is the label.

    Args:
        root: the folder.

    Raises:
        UserError: the folder does not exist, has no images, or none that can be read.
    """

    def __init__(self, root: Path) -> None:
        if not root.is_dir():
            what = "is not a folder" if root.exists() else "does not exist"
            raise UserError(f"data: {root} {what}; give a folder of images, or the name digits")
        paths = sorted(_image_files(root))
        if not paths:
            raise UserError(f"data: no {', '.join(SUFFIXES)} files in {root} or its sub-folders")
        super().__init__(root, paths)
        if not self.names:
            name, reason = self.left_out[0]
            raise UserError(
                f"data: none of the {len(paths):,} files in {root} can be read as an image "
                f"(the first, {name}: {reason})"
            )
        self.labels, self.classes = _labels(self.names)

    def describe(self) -> str:
        text = f"{self._root}: {len(self):,} images"
        if self.classes is not None:
            shown = ", ".join(self.classes[:4]) + (", ..." if len(self.classes) > 4 else "")
            text += f" in {len(self.classes)} sub-folders, taken as labels ({shown})"
        return text + self._describe_left_out()


def _image_files(root: Path) -> Iterator[str]:
    """Yield relative paths with forward slashes; links to folders are followed."""
    visited = set()
    for folder, subfolders, files in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        subfolders[:] = [s for s in subfolders if not s.startswith((".", "__MACOSX"))]
        if real in visited:  # a link to a folder above would never end
            subfolders.clear()
            continue
        visited.add(real)
        relative = os.path.relpath(folder, root).replace(os.sep, "/")
        prefix = "" if relative == "." else relative + "/"
        for file in files:
            if file.lower().endswith(SUFFIXES) and not file.startswith("."):
                yield prefix + file


def _labels(names: Sequence[str]) -> tuple[np.ndarray | None, list[str] | None]:
    """Return the labels `(n,)` and the names of the classes; None if there are no sub-folders."""
    folders = [name.split("/", 1)[0] if "/" in name else None for name in names]
    classes = sorted({folder for folder in folders if folder is not None})
    if None in folders or not 2 <= len(classes) < len(names):
        return None, None
    number = {name: i for i, name in enumerate(classes)}
    labels = [number[folder] for folder in folders if folder is not None]
    return np.array(labels, dtype=np.int64), classes
