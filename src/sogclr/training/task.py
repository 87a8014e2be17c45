"""The interface between the training loop and what it trains: a model, a loss and batches."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..models.wrapped import load_plain
from ..runs.changed_data import Fingerprint, carry_over
from ..runs.folder import Run

__all__ = ["Outcome", "Task", "to_device"]


@dataclass(frozen=True)
class Outcome:
    """The results of a forward pass over b samples with two sides: views, or image and text.

    Attributes:
        loss: scalar.
        features: for each side, `(b, w)` outputs of the encoder, without gradient.
        projections: for each side, `(b, d)` inputs of the loss, without gradient.
        indices: for each side, the `index` `(b,)` int64 that the loss received.
    """

    loss: Tensor
    features: tuple[Tensor, Tensor]
    projections: tuple[Tensor, Tensor]
    indices: tuple[Tensor, Tensor]

    def tensors(self) -> tuple[Tensor, ...]:
        """Return all tensors in a flat tuple, the loss detached from its graph."""
        return self.loss.detach(), *self.features, *self.projections, *self.indices

    @classmethod
    def from_tensors(cls, tensors: Sequence[Tensor]) -> "Outcome":
        """Build an outcome from the tuple that `tensors` returned."""
        loss, features_a, features_b, z_a, z_b, index_a, index_b = tensors
        return cls(loss, (features_a, features_b), (z_a, z_b), (index_a, index_b))


class Task(ABC):
    """A model, its loss and its batches, as the training loop uses them.

    Attributes:
        model: the model that is trained and kept in checkpoints.
        loss: the loss; has `raise_for_invalid_ids()`. Its parameters are trained as well.
        names: names of samples by index, for messages.
        fixed_work: whether a step can be a CUDA graph: `prepare` returns only tensors, with shapes
            that depend on the batch size alone, and `forward` does the same work in every step.
    """

    model: nn.Module
    loss: Any
    names: Sequence[str] | Mapping[int, str]
    fixed_work: bool = False

    @abstractmethod
    def loader(self, schedule: Any, *, pin_memory: bool) -> Iterable[Any]:
        """Load the micro-batches of a schedule, from `schedule.start_step` to its end.

        Args:
            schedule: the kind of `Schedule` that fits the data.
            pin_memory: whether tensors are placed in page-locked memory.

        Returns:
            Batches with `micro_batch` (a `MicroBatch` of the samples that could be read) and
            `unreadable` (`(name, reason)` of each sample that could not).
        """

    @abstractmethod
    def prepare(self, batch: Any) -> tuple[Any, ...]:
        """Return the inputs of `forward` for a batch.

        Tensors are on the CPU; move them by `to_device`. Anything else stays on the host.
        """

    @abstractmethod
    def forward(self, model: nn.Module, inputs: tuple[Any, ...], device: torch.device) -> Outcome:
        """Run the model and the loss; does not wait for the device.

        Args:
            model: `self.model`, possibly wrapped.
            inputs: what `prepare` returned, with tensors on the device.
            device: the device of model and tensors.
        """

    def after_step(self) -> None:  # noqa: B027 most tasks have nothing to do here
        """Update what depends on the weights, after each optimizer step.

        Does not wait for the device.
        """

    @abstractmethod
    def fingerprints(self) -> dict[str, Fingerprint]:
        """Return the fingerprints of the samples of each side, see `sogclr.runs.changed_data`."""

    def restore(self, state: dict[str, Any], run: Run) -> str | None:
        """Load model and loss from a checkpoint.

        If the data has changed, samples whose ids are in the checkpoint keep their state.

        Args:
            state: the checkpoint.
            run: the run, for messages.

        Returns:
            One line on what has changed in the data; None if nothing has.

        Raises:
            UserError: the checkpoint belongs to another data set.
        """
        load_plain(self.model, state["model"])
        loss, message = carry_over(
            state["loss"], self.loss.state_dict(), state["data"], self.fingerprints(), run
        )
        self.loss.load_state_dict(loss)
        if message is not None and getattr(self.loss, "memory", None) is not None:
            # The memory refers to samples by their former index.
            self.loss.memory.clear()
        return message

    @abstractmethod
    def write_model(self, run: Run, weights: dict[str, Tensor]) -> None:
        """Write the trained model to its own files, apart from the checkpoint.

        Args:
            run: the run's folder.
            weights: the full state_dict of `model`.
        """

    @abstractmethod
    def score(self, device: torch.device) -> dict[str, float]:
        """Evaluate the embeddings; return scores by name, or {} if the data allows none."""


def to_device(inputs: tuple[Any, ...], device: torch.device) -> tuple[Any, ...]:
    """Move tensors to a device; anything else stays on the host."""
    # Copy asynchronously on CUDA only, which orders the copy before the work that reads it.
    asynchronous = device.type == "cuda"
    return tuple(
        each.to(device, non_blocking=asynchronous) if isinstance(each, Tensor) else each
        for each in inputs
    )
