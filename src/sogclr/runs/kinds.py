"""The kinds of runs: which command made the folder."""

from typing import Any

__all__ = ["NAMES", "kind_of"]

# What a run of each kind is called in messages.
NAMES = {
    "images": "a run of sogclr pretrain",
    "pairs": "a run of sogclr align",
    "classifier": "a classifier of sogclr finetune",
}


def kind_of(settings: dict[str, Any]) -> str:
    """Return the kind of a run, a key of `NAMES`.

    Args:
        settings: the content of settings.json, which `Run.read_settings` has checked.
    """
    return settings.get("kind", "images")
