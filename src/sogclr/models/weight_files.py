"""Load the weights of an encoder from a file that a user names."""

from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

from ..common.errors import UserError, flag, one_line

__all__ = ["load_weights", "read_state"]


def load_weights(encoder: nn.Module, path: Path, option: str) -> None:
    """Load weights from a safetensors or torch file; tensors that the encoder lacks are ignored.

    Raises:
        UserError: the file is missing, unreadable, or does not fit; the message names `option`.
    """
    state = read_state(path, flag(option))
    if not isinstance(state, Mapping):
        raise UserError(f"{flag(option)}: {path} holds no tensors by name")
    state = state.get("state_dict", state)
    own = encoder.state_dict()
    missing = [key for key in own if key not in state]
    unfit = [key for key in own if key in state and state[key].shape != own[key].shape]
    if missing or unfit:
        raise UserError(
            f"{flag(option)}: {path} does not fit the encoder: {len(missing)} tensors are missing "
            f"and {len(unfit)} have another shape, the first {(missing + unfit)[0]}"
        )
    encoder.load_state_dict({key: state[key] for key in own})


def read_state(path: Path, name: str) -> Any:
    """Read what a safetensors or torch file holds; nothing in it is executed.

    Raises:
        UserError: the file is missing or unreadable; the message begins with `name`.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise UserError(f"{name}: {path} does not exist") from error
    except UnpicklingError as error:
        reason = "it is damaged, or holds objects, which are not executed: save tensors alone"
        raise UserError(f"{name}: {path} cannot be read ({reason})") from error
    except Exception as error:
        raise UserError(f"{name}: {path} cannot be read ({one_line(error)})") from error
