"""Fetch a run from the Hugging Face hub: the files that a model is loaded of, and no others.

A repository may be a stranger's. Its list of files is checked before anything is fetched.
"""

import re
import shutil
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from ..common.console import say
from ..common.errors import UserError, one_line
from .stored import LARGEST_JSON

__all__ = ["choose_files", "download_run", "is_on_hub", "require_repository_name"]

PREFIX = "hf:"
DESCRIPTIONS = ("settings.json", "encoder.json", "towers.json")
WEIGHTS = ("encoder.safetensors", "trained.safetensors", "frozen.safetensors")
TEXT = re.compile(r"text/[A-Za-z0-9_-][A-Za-z0-9_.-]*\.(json|txt|model|jinja)")
PATTERNS = [*DESCRIPTIONS, *WEIGHTS, "text/*"]
LARGEST_WEIGHTS = 1 << 36  # bytes, of a file
LARGEST_TEXT = 1 << 27  # bytes, of a file with a vocabulary
MOST_TEXT_FILES = 32
# Files that programs run, or unpickle, which is the same.
EXECUTED = (
    ".bin", ".ckpt", ".dill", ".dll", ".joblib", ".npy", ".npz", ".pickle", ".pkl", ".pt", ".pth",
    ".py", ".pyc", ".sh", ".so",
)  # fmt: skip
SECONDS = 30.0  # for the list of files


def is_on_hub(run: Any) -> bool:
    """Tell whether a run is named as a repository of the hub, `hf:owner/name`."""
    return isinstance(run, str) and run.startswith(PREFIX)


def require_repository_name(name: str) -> None:
    """Refuse what is no name of a repository.

    Raises:
        UserError: it is not `owner/name`, of letters, digits, `-`, `_` and `.`.
    """
    if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name, flags=re.ASCII) or ".." in name:
        raise UserError(f"hub: {name!r} is no name of a repository; it has the form owner/name")


def download_run(address: str) -> Path:
    """Fetch the files of a run into the cache of the hub, unless they are there already.

    Args:
        address: `hf:owner/name`, or `hf:owner/name@revision` for a branch, tag or commit.

    Returns:
        The folder in the cache. Without a network it is the one that was fetched before.

    Raises:
        UserError: there is no such repository, it cannot be reached, or `choose_files` refuses it.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import (
        GatedRepoError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    name, _, revision = address.removeprefix(PREFIX).partition("@")
    require_repository_name(name)
    where: dict[str, Any] = {"repo_id": name, "revision": revision or None}
    api = HfApi()
    try:
        info = api.model_info(**where, files_metadata=True, timeout=SECONDS)
    except GatedRepoError as error:
        raise UserError(
            f"hub: {name} is open on request; ask on its page, then hf auth login"
        ) from error
    except RevisionNotFoundError as error:
        raise UserError(f"hub: {name} has no revision {revision}") from error
    except RepositoryNotFoundError as error:
        raise UserError(
            f"hub: there is no {name}, or it is private; if it is yours, log in: hf auth login"
        ) from error
    except Exception as error:  # without a network, of whichever library speaks HTTP
        return _find_cached(api, where, address, error)
    sizes = {file.rfilename: file.size for file in info.siblings or []}
    files = choose_files(sizes, name)
    _require_space(sum(sizes[file] or 0 for file in files), name)
    try:
        folder = Path(api.snapshot_download(**where, allow_patterns=files))
    except Exception as error:
        raise UserError(f"hub: {name} could not be fetched ({one_line(error)})") from error
    if folder.name != info.sha:
        raise UserError(f"hub: {name} was changed while it was fetched; try again")
    return folder


def choose_files(sizes: Mapping[str, int | None], name: str) -> list[str]:
    """Choose the files of a repository that a model is loaded of.

    Args:
        sizes: the bytes of each file by its name; None if the hub does not say.
        name: the name of the repository, for messages.

    Raises:
        UserError: a name leads out of the folder, a file is executed when it is loaded, a file is
            too large, or there is no run.
    """
    for file in sizes:
        parts = PurePosixPath(file).parts
        if ".." in parts or file.startswith("/") or re.search(r"[\\:]|[^\x20-\x7e]", file):
            raise UserError(f"hub: {name} has a file of the name {file!r}, which is refused")
        if file.endswith(EXECUTED):
            raise UserError(
                f"hub: {name} has {file}, which can run code when it is loaded; models of sogclr "
                "are safetensors and JSON alone"
            )
    weights = "trained.safetensors" if "towers.json" in sizes else "encoder.safetensors"
    description = "towers.json" if "towers.json" in sizes else "encoder.json"
    for file in ("settings.json", description, weights):
        if file not in sizes:
            raise UserError(f"hub: {name} is no model that sogclr pushed: it lacks {file}")
    texts = [file for file in sizes if TEXT.fullmatch(file)]
    if len(texts) > MOST_TEXT_FILES:
        raise UserError(f"hub: {name} has {len(texts)} files in text/, more than any tokenizer")
    limits = {
        **dict.fromkeys(DESCRIPTIONS, LARGEST_JSON),
        **dict.fromkeys(WEIGHTS, LARGEST_WEIGHTS),
        **dict.fromkeys(texts, LARGEST_TEXT),
    }
    chosen = [file for file in limits if file in sizes]
    for file in chosen:
        size = sizes[file]
        if size is None or not 0 <= size <= limits[file]:
            told = "of unknown size" if size is None else f"of {size:,} bytes"
            raise UserError(
                f"hub: {name} has {file} {told}; at most {limits[file]:,} bytes are fetched"
            )
    return chosen


def _require_space(needed: int, name: str) -> None:
    """Refuse to fill the disk of the cache."""
    from huggingface_hub.constants import HF_HUB_CACHE

    folder = Path(HF_HUB_CACHE)
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(
            f"hub: {name} has {needed / 1e6:,.0f} MB, but {free / 1e6:,.0f} MB are free at {folder}"
        )


def _find_cached(api: Any, where: dict[str, Any], address: str, reason: Exception) -> Path:
    """Find what was fetched before, since the hub cannot be reached."""
    try:
        folder = Path(
            api.snapshot_download(**where, local_files_only=True, allow_patterns=PATTERNS)
        )
    except Exception as error:
        raise UserError(
            f"hub: {address} cannot be reached ({one_line(reason)}), and was not fetched before"
        ) from error
    files = [path for path in folder.rglob("*") if path.is_file()]
    sizes = {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}
    choose_files(sizes, where["repo_id"])
    say(f"the hub cannot be reached; {address} is what was fetched before")
    return folder
