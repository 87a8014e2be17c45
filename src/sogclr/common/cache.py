"""The folder for results that can be computed again: image headers, indexes, frozen features."""

import os
from pathlib import Path

from platformdirs import user_cache_path

__all__ = ["cache_folder"]


def cache_folder() -> Path:
    """Return `$SOGCLR_CACHE`, or a folder where the system keeps caches; it may not exist yet."""
    named = os.environ.get("SOGCLR_CACHE")
    return Path(named) if named else user_cache_path("sogclr", appauthor=False)
