"""Load the weights of an encoder from a file that a user names."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

from ..common.errors import UserError, flag

__all__ = ["load_weights"]


def load_weights(encoder: nn.Module, path: Path, option: str) -> None:
    """Load weights from a safetensors or torch file; tensors that the encoder lacks are ignored.

    Raises:
        UserError: the file is missing, unreadable, or does not fit; the message names `option`.
    """
    state: dict[str, Any]
    try:
        if path.suffix == ".safetensors":
            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
        state = dict(state.get("state_dict", state))
    except FileNotFoundError as error:
        raise UserError(f"{flag(option)}: {path} does not exist") from error
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{flag(option)}: {path} cannot be read ({reason})") from error
    own = encoder.state_dict()
    missing = [key for key in own if key not in state]
    unfit = [key for key in own if key in state and state[key].shape != own[key].shape]
    if missing or unfit:
        raise UserError(
            f"{flag(option)}: {path} does not fit the encoder: {len(missing)} tensors are missing "
            f"and {len(unfit)} have another shape, the first {(missing + unfit)[0]}"
        )
    encoder.load_state_dict({key: state[key] for key in own})
