"""Check arguments before anything heavy is imported and before the data is read."""

import os
from typing import Any

from ..common.errors import UserError, flag

__all__ = ["require_data", "require_encoder"]

NOT_PATHS = ("://", "{", "hf:")  # a URL, a pattern of shards, a data set on the hub


def require_data(data: Any, argument: str = "data") -> None:
    """Refuse the path of a file or folder that does not exist.

    Args:
        data: The argument. Only the path of a file or folder is checked.
        argument: Name of the argument for the message, such as "data" or "val".

    Raises:
        UserError: The path does not exist.
    """
    if not isinstance(data, str | os.PathLike) or data == "digits":
        return
    path = os.fspath(data)
    if not os.path.exists(path) and not any(mark in path for mark in NOT_PATHS):
        name = argument if argument == "data" else flag(argument)
        raise UserError(f"{name}: {path} does not exist; correct the path")


def require_encoder(encoder: Any, option: str) -> None:
    """Refuse a name of an encoder that timm does not know.

    Args:
        encoder: The argument. Only a name of timm's is checked.
        option: Name of the argument for the message, such as "encoder".

    Raises:
        UserError: The name is unknown; the message lists the nearest names.
    """
    if not isinstance(encoder, str) or encoder in ("auto", "small"):
        return
    if not encoder.startswith("custom:"):
        from ..models.encoders import require_known

        require_known(encoder, option)
