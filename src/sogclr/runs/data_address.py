"""Name the data of a run in settings.json, so that later commands find it again."""

import os
from pathlib import Path
from typing import Any

from ..data.tar.urls import is_url, without_secrets

__all__ = ["data_address"]


def data_address(data: Any) -> str | None:
    """Name data so that it is found again from any working directory.

    Args:
        data: what `pretrain` or `align` was given.

    Returns:
        An absolute path, a URL without its secrets, or a name; None for data in memory.
    """
    if not isinstance(data, str | Path):
        return None
    if data == "digits":  # a name, even where a folder has it too
        return data
    if is_url(data):
        return without_secrets(str(data))
    is_path = os.path.exists(data) or str(data).endswith(".tar")  # or a pattern of shards
    return os.path.abspath(data) if is_path else str(data)
