"""What a training loop is asked to learn: images alone, or pairs."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..runs.changed_data import Fingerprint, carry_over
from ..runs.folder import Run

__all__ = ["Outcome", "Task"]


@dataclass(frozen=True)
class Outcome:
    """Of a forward pass over b samples, each with two sides (views, or image and text).

    Attributes:
        loss: scalar, with its graph.
        features: `(b, w)` of either side, of the encoders, without graph.
        projections: `(b, d)` of either side, what the loss saw, without graph.
        indices: `(b,)` on the CPU, the index of the samples of either side.
    """

    loss: Tensor
    features: tuple[Tensor, Tensor]
    projections: tuple[Tensor, Tensor]
    indices: tuple[Tensor, Tensor]


class Task(ABC):
    """What the loop needs to know.

    Attributes:
        model: what is trained, and kept in checkpoints.
        loss: with a `raise_for_invalid_ids()`; its parameters (a learned temperature) are trained
            as well.
        names: of the samples by row, for messages.
        static: whether `compute` does the same work for every batch of a size, so that it can be
            captured; `inputs`, `compute` and `outcome` together are `forward` then.
    """

    model: nn.Module
    loss: Any
    names: Sequence[str] | Mapping[int, str]
    static: bool = False

    @abstractmethod
    def loader(self, plan: Any, *, pin_memory: bool) -> Iterable[Any]:
        """Batches with a `plan` (a `MicroBatch`, of the rows that could be read) and `unreadable`,
        from `plan.start_step` to the end of the run. `plan` is the task's kind of `Epochs`."""

    @abstractmethod
    def forward(self, model: nn.Module, batch: Any, device: torch.device) -> Outcome:
        """Views, model and loss; waits for nothing. `model` is `self.model`, wrapped."""

    def inputs(self, batch: Any) -> tuple[Tensor, ...]:
        """What `compute` takes of a batch, on the host, in shapes that its size determines."""
        raise NotImplementedError

    def compute(self, model: nn.Module, *inputs: Tensor) -> tuple[Tensor, ...]:
        """The loss, with its graph, and what else `outcome` takes, of inputs on the device."""
        raise NotImplementedError

    def outcome(self, batch: Any, results: tuple[Tensor, ...]) -> Outcome:
        """Of the results of a batch, see `compute`."""
        raise NotImplementedError

    def after_step(self) -> None:  # noqa: B027 most tasks have nothing to do then
        """What is to be done once an optimizer step, after it; waits for nothing."""

    @abstractmethod
    def identity(self) -> dict[str, Fingerprint]:
        """Who the samples are, see `sogclr.runs.changed_data`."""

    def restore(self, state: dict[str, Any], run: Run) -> str | None:
        """Take model and loss from a checkpoint; changed data keeps what is known of its samples.

        Returns:
            What became of the samples, in one line; None if the data is the same.

        Raises:
            UserError: a checkpoint of another data set.
        """
        self.model.load_state_dict(state["model"])
        loss, told = carry_over(
            state["loss"], self.loss.state_dict(), state["data"], self.identity(), run
        )
        self.loss.load_state_dict(loss)
        if told is not None and getattr(self.loss, "memory", None) is not None:
            self.loss.memory.clear()  # whose samples stand in other rows now
        return told

    @abstractmethod
    def write_model(self, run: Run, weights: dict[str, Tensor]) -> None:
        """Leave in the run what its user wants of it. `weights` is the model's state, whole."""

    @abstractmethod
    def score(self, device: torch.device) -> dict[str, float]:
        """How good the embeddings are now, by name; empty if that cannot be told."""
