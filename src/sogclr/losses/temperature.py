"""The temperature of a loss: a constant, one that is learned, or one a sample.

What is minimized in tau differs from what is minimized in the features. With log g the
log-normalizer of an anchor and p the softmax over its negatives,

    d/dtau  tau log g  =  -KL(p || uniform)  <=  0,

so on the objective F itself a learned tau grows for ever. Two remedies are in use:

    F / tau        CLIP's, and FastCLIP v0's
    F + rho tau    iSogCLR's, FastCLIP v2's and v3's: at its minimum the KL above equals rho

Sources: Radford et al., ICML 2021 (CLIP); Qiu et al., "Not All Semantics are Created Equal",
ICML 2023 (iSogCLR); Wei et al., "FastCLIP", arXiv 2407.01445.
"""

import math
from typing import TypeAlias

import torch
from torch import Tensor, nn

from .equal_rows import mean_over_equal_rows
from .per_sample import PerSample

__all__ = [
    "ConstantTemperature",
    "IndividualTemperature",
    "LearnedTemperature",
    "Tau",
    "Temperature",
    "as_temperature",
    "column",
    "detached",
    "without_graph",
]

# One number for all anchors, a scalar on the device, or one of each anchor, `(S, M)` or `(M,)`.
Tau: TypeAlias = float | Tensor

BARE = (
    "a temperature that is learned on the objective itself grows for ever (d/dtau is never "
    "positive): use LearnedTemperature (F/tau, or F + rho tau) or IndividualTemperature"
)


class Temperature(nn.Module):
    """The interface: tau of some anchors, and what it turns their objective into.

    Attributes:
        minimum: a number that tau is not below, known without waiting for the device.
        per_sample: whether samples have different tau.
    """

    minimum: float
    per_sample = False

    def for_rows(self, num_rows: int | None) -> "Temperature":
        """What one side with this many samples uses; itself where samples share it."""
        return self

    def forward(self, rows: Tensor) -> float | Tensor:
        """tau of the anchors in these rows `(M,)`: a number, a scalar, or `(M,)`."""
        raise NotImplementedError

    def objective(self, loss: Tensor, tau: Tau) -> Tensor:
        """Compute what is minimized over tau, both divided by the present tau.

        Args:
            loss: F / tau of each anchor, with the graph of tau.
            tau: with its graph.
        """
        return loss

    def learns(self) -> bool:
        """Whether `learn` wants to be told gradients now."""
        return False

    def learn(self, rows: Tensor, gradient: Tensor) -> None:
        """Take note of dF/dtau of each anchor, `(M,)`."""


class ConstantTemperature(Temperature):
    """tau is a number."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value

    @property
    def minimum(self) -> float:  # type: ignore[override]
        return self.value

    def forward(self, rows: Tensor) -> float:
        return self.value

    def extra_repr(self) -> str:
        return f"{self.value:g}"


class LearnedTemperature(Temperature):
    """One tau for all, a parameter: give `loss.parameters()` to the optimizer.

    What is kept is log tau, so a learning rate means a relative change, as with CLIP's
    `logit_scale = -log tau`.

    Args:
        initial: 0.07 as CLIP.
        rho: None to minimize F/tau; or the weight of rho tau in F + rho tau, in nats: tau
            settles where the softmax over an anchor's negatives is that far from uniform.
        minimum: 0.01 as CLIP (whose scale ends at 100).

    Raises:
        ValueError: rho <= 0 (that is the bare objective), initial below minimum.
    """

    def __init__(
        self, initial: float = 0.07, *, rho: float | None = None, minimum: float = 0.01
    ) -> None:
        super().__init__()
        _check_rho(rho)
        _check_bounds(minimum, initial, math.inf)
        self.rho, self.minimum = rho, minimum
        self.log_temperature = nn.Parameter(torch.tensor(math.log(initial)))

    def forward(self, rows: Tensor) -> Tensor:
        if self.training:
            with torch.no_grad():  # in place, so that a tau at the bound can leave it again
                self.log_temperature.clamp_(min=math.log(self.minimum))
        return self.log_temperature.exp()

    def objective(self, loss: Tensor, tau: Tau) -> Tensor:
        if self.rho is None:
            return loss
        assert isinstance(tau, Tensor)
        return (loss + self.rho) * (tau / tau.detach())

    def extra_repr(self) -> str:
        aim = "F/tau" if self.rho is None else f"F + {self.rho:g} tau"
        return f"minimizes {aim}, minimum={self.minimum:g}"


class IndividualTemperature(PerSample, Temperature):
    """iSogCLR: every sample (of either side) has its own tau, minimizing F + rho tau.

    Samples with many near neighbours end with a larger tau than those that stand alone. Not
    parameters: a sample's tau takes its own steps of gradient descent with momentum when it is
    visited, as its normalizer does, and is saved with it:

        v <- momentum v + (1 - momentum) dF/dtau,   tau <- clip(tau - learning_rate v)

    Args:
        initial: where all start.
        rho: in nats; tau settles where the softmax over the sample's negatives is that far (in
            KL) from uniform. Larger makes tau smaller; below log of the number of samples.
        minimum, maximum: bounds of tau.
        learning_rate: of tau.
        momentum: in [0, 1).

    Raises:
        ValueError: a value out of range.
    """

    per_sample = True
    tau: Tensor
    velocity: Tensor

    def __init__(
        self,
        initial: float = 0.05,
        *,
        rho: float,
        minimum: float = 0.005,
        maximum: float = 1.0,
        learning_rate: float = 0.01,
        momentum: float = 0.9,
    ) -> None:
        super().__init__()
        _check_rho(rho)
        _check_bounds(minimum, initial, maximum)
        if not 0 < learning_rate < math.inf:
            raise ValueError(f"learning_rate of tau must be above 0, got {learning_rate}")
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum must be in [0, 1), got {momentum}")
        self.initial, self.rho, self.minimum, self.maximum = initial, rho, minimum, maximum
        self.learning_rate, self.momentum = learning_rate, momentum

    def for_rows(self, num_rows: int | None) -> "IndividualTemperature":
        if num_rows is None:
            raise ValueError("IndividualTemperature needs a loss that is made with num_samples")
        own = IndividualTemperature(
            self.initial,
            rho=self.rho,
            minimum=self.minimum,
            maximum=self.maximum,
            learning_rate=self.learning_rate,
            momentum=self.momentum,
        )
        # The spare last row takes invalid ids, as in the normalizer table.
        own.register_buffer("tau", torch.full((num_rows + 1,), self.initial))
        own.register_buffer("velocity", torch.zeros(num_rows + 1))
        return own

    def forward(self, rows: Tensor) -> Tensor:
        return self.tau[rows]

    def objective(self, loss: Tensor, tau: Tau) -> Tensor:
        return loss + self.rho

    def learns(self) -> bool:
        return self.training and torch.is_grad_enabled()

    @torch.no_grad()
    def learn(self, rows: Tensor, gradient: Tensor) -> None:
        """One step for each row; a row that occurs several times is averaged.

        Args:
            rows: `(M,)` int64.
            gradient: `(M,)` dF/dtau; where it is not finite (an anchor without negatives) it
                does not count, and a row without any stays as it is.
        """
        mean = mean_over_equal_rows(rows, gradient)
        before, velocity = self.tau[rows], self.velocity[rows]
        slope = (mean + self.rho).to(before.dtype)
        moved = self.momentum * velocity + (1 - self.momentum) * slope
        after = (before - self.learning_rate * moved).clamp(self.minimum, self.maximum)
        finite = moved.isfinite()
        self.velocity[rows] = torch.where(finite, moved, velocity)
        self.tau[rows] = torch.where(finite, after, before)

    def extra_repr(self) -> str:
        return f"rho={self.rho:g}, bounds=({self.minimum:g}, {self.maximum:g})"


def as_temperature(temperature: float | Temperature) -> Temperature:
    """A number is a constant.

    Raises:
        ValueError: not above 0, or a tensor that wants a gradient (with the reason).
    """
    if isinstance(temperature, Temperature):
        return temperature
    if isinstance(temperature, Tensor) and temperature.requires_grad:
        raise ValueError(BARE)
    if not (temperature > 0 and math.isfinite(temperature)):
        raise ValueError(f"temperature must be a positive number, got {temperature}")
    return ConstantTemperature(float(temperature))


def column(tau: float | Tensor) -> float | Tensor:
    """tau so that it divides similarities `(M, N)` row by row."""
    return tau[:, None] if isinstance(tau, Tensor) and tau.ndim == 1 else tau


def detached(tau: Tau) -> Tau:
    """Return tau without graph, a scalar as a number. Waits for the device."""
    if isinstance(tau, Tensor):
        return tau.detach() if tau.ndim else tau.item()
    return tau


def without_graph(tau: Tau) -> Tau:
    """Return tau without graph, where it is."""
    return tau.detach() if isinstance(tau, Tensor) else tau


def _check_rho(rho: float | None) -> None:
    if rho is not None and not 0 < rho < math.inf:
        raise ValueError(f"rho must be above 0, got {rho}: {BARE}")


def _check_bounds(minimum: float, initial: float, maximum: float) -> None:
    if not (0 < minimum <= initial <= maximum and math.isfinite(initial)):
        raise ValueError(
            f"temperature must be a positive number within its bounds, "
            f"got {initial} in [{minimum}, {maximum}]"
        )
