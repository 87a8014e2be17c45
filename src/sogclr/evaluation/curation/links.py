"""Make a folder of links to the images of findings, and to those that are kept."""

import os
from pathlib import Path, PurePosixPath

import numpy as np

from ...common.errors import UserError, one_line
from ...data.image_source import ImageSource
from .finding import Finding

__all__ = ["link_findings", "link_kept", "require_linkable"]

FOLDERS = {
    "duplicate": "duplicates",
    "label": "labels",
    "caption": "captions",
    "outlier": "outliers",
    "crowded": "crowded",
}
LONGEST = 200  # bytes of a name that a link has at its end


def require_linkable(folder: Path, images: ImageSource, data: object) -> None:
    """Refuse links that cannot be made, before hours of work.

    Args:
        folder: the folder to make.
        images: the images to link to.
        data: what the user gave as data.

    Raises:
        UserError: the folder is not empty or within the data, or the images are no files.
    """
    if images.file(0) is None:
        raise UserError("--links: these images have no files of their own; leave it out")
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise UserError(f"--links: {folder} exists and is not empty; name a new folder")
    if not folder.absolute().parent.is_dir():
        raise UserError(f"--links: there is no folder {folder.absolute().parent}; make it first")
    is_folder = isinstance(data, str | Path) and Path(data).is_dir()
    if is_folder and Path(os.path.realpath(folder)).is_relative_to(os.path.realpath(str(data))):
        raise UserError(
            f"--links: {folder} is within the data, where links would count as images; "
            "name a folder elsewhere"
        )


def link_findings(folder: Path, findings: list[Finding], images: ImageSource) -> int:
    """Link to the images of findings: a folder for each kind, and for each group in it.

    Names start with the rank, so that file managers show the clearest first.

    Returns:
        How many links were made.
    """
    made = 0
    for rank, finding in enumerate(findings):
        file = images.file(finding.row)
        if finding.side == "b" or file is None:
            continue
        parts = [FOLDERS[finding.kind]]
        if finding.group is not None:
            parts.append(f"{finding.group:04}")
        end = os.fsdecode(os.fsencode(file.name)[-LONGEST:])
        made += _link(folder.joinpath(*parts, f"{rank:05}-{end}"), file)
    return made


def link_kept(folder: Path, rows: np.ndarray, images: ImageSource) -> int:
    """Link to the images that are kept, in `kept` and the sub-folders that they have.

    Returns:
        How many links were made.
    """
    made = 0
    for row in rows.tolist():
        file, name = images.file(row), PurePosixPath(images.names[row])
        # A table may name files anywhere; a link outside the folder is not made.
        if file is not None and not name.is_absolute() and ".." not in name.parts:
            made += _link(folder / "kept" / name, file)
    return made


def _link(link: Path, file: Path) -> bool:
    try:
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(file.absolute())
    except OSError as error:
        message = f"--links: {link} cannot be made ({one_line(error)})"
        raise UserError(message) from error
    return True
