"""The base of modules that keep state per sample."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from . import torch_versions

__all__ = ["PerSample", "append_rows", "require_forward_pass", "require_growth"]


class PerSample(nn.Module):
    """A module whose state per sample is moved and saved like buffers, with two differences.

    - Its dtype stays when the module is cast. `.half()`, `.bfloat16()` and `.to(dtype)` are meant
      for weights; rounded to them, a moving average would lose its small steps.
    - `DistributedDataParallel` does not send it. DDP sends all buffers of process 0 before each
      step, which would overwrite the shards of a table. Whole tables are equal anyway.
    """

    def __init__(self) -> None:
        super().__init__()
        self._persistent: dict[str, bool] = {}  # by name of the state

    def register_state(self, name: str, state: Tensor, persistent: bool = True) -> None:
        """Make a tensor an attribute that moves with the module, saved if it is `persistent`."""
        self._persistent[name] = persistent
        setattr(self, name, state)

    @contextmanager
    def _as_buffers(self) -> Iterator[None]:
        """Make the state buffers, so that torch's own code handles it."""
        for name, persistent in self._persistent.items():
            self.register_buffer(name, vars(self).pop(name), persistent)
        try:
            yield
        finally:
            for name in self._persistent:
                vars(self)[name] = self._buffers.pop(name)

    # torch leaves the overridden hooks untyped.
    def _apply(self, fn, recurse=True):  # type: ignore[no-untyped-def]
        before = {name: getattr(self, name) for name in self._persistent}
        with self._as_buffers():
            super()._apply(fn, recurse)
        for name, state in before.items():
            moved = getattr(self, name)
            if moved.dtype != state.dtype:
                setattr(self, name, state.to(moved.device))
        return self

    def _save_to_state_dict(self, destination, prefix, keep_vars):  # type: ignore[no-untyped-def]
        with self._as_buffers():
            super()._save_to_state_dict(destination, prefix, keep_vars)

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any) -> None:
        with self._as_buffers():
            super()._load_from_state_dict(state_dict, prefix, *rest)


def require_forward_pass() -> None:
    """Refuse to write state while a backward pass runs: a checkpointed loss is computed again.

    Raises:
        RuntimeError: a backward pass runs in this thread.
    """
    if not torch_versions.is_compiling() and torch._C._current_graph_task_id() != -1:
        raise RuntimeError(
            "a loss with state per sample was computed again in the backward pass, which would "
            "update its state twice: apply torch.utils.checkpoint to the encoder, not to the loss"
        )


def require_growth(rows: int, num_rows: int) -> None:
    """Refuse fewer rows than there are.

    Raises:
        ValueError: `num_rows` is below the number of rows.
    """
    if num_rows < rows:
        raise ValueError(f"{rows} rows cannot become {num_rows}: rows of samples would be lost")


def append_rows(state: Tensor, num_rows: int, unvisited: Tensor) -> Tensor:
    """Append rows to a state per sample; its last row is a spare for invalid ids.

    Args:
        state: `(n + 1, ...)`.
        num_rows: number of rows afterwards, at least n.
        unvisited: `(...)`, a row without a visit.

    Returns:
        `(num_rows + 1, ...)`, in the dtype and on the device of `state`.
    """
    fresh = unvisited.to(state).expand(num_rows + 2 - len(state), *state.shape[1:])
    return torch.cat([state[:-1], fresh])
