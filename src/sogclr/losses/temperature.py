"""The temperature of a loss: constant, learned, or one per sample.

A learned tau minimizes another objective than the features do. With log g the log-normalizer of an
anchor and p the softmax over its negatives,

    d/dtau  tau log g  =  -KL(p || uniform)  <=  0,

so a tau that minimizes F itself grows for ever. Two remedies are in use:

    F / tau        CLIP's, and FastCLIP v0's
    F + rho tau    iSogCLR's, FastCLIP v2's and v3's: at its minimum the KL above equals rho

Sources: Radford et al., ICML 2021 (CLIP); Qiu et al., "Not All Semantics are Created Equal",
ICML 2023 (iSogCLR); Wei et al., "FastCLIP", arXiv 2407.01445.
"""

import copy
import math
from typing import TypeAlias

import torch
from torch import Tensor, nn

from .equal_rows import mean_over_equal_rows
from .per_sample import PerSample, append_rows, require_growth

__all__ = [
    "ConstantTemperature",
    "IndividualTemperature",
    "LearnedTemperature",
    "Tau",
    "Temperature",
    "as_temperature",
    "column",
    "read_tau",
]

# A number or a scalar tensor, equal for all anchors; or one per anchor, `(S, M)` or `(M,)`.
Tau: TypeAlias = float | Tensor

UNBOUNDED = (
    "a temperature that minimizes the objective F itself grows for ever (dF/dtau is never "
    "positive): use LearnedTemperature (F/tau, or F + rho tau) or IndividualTemperature"
)


class Temperature(nn.Module):
    """The interface of a temperature: tau of each anchor, and the objective that tau minimizes.

    Attributes:
        minimum: lower bound of tau, a number on the host.
        per_sample: whether tau can differ between samples.
    """

    minimum: float
    per_sample = False

    def for_rows(self, num_rows: int | None) -> "Temperature":
        """Return the temperature of a side of `num_rows` samples; `self` if all share one tau.

        Without state per sample, a loss has None for `num_rows`.
        """
        return self

    def grow(self, num_rows: int) -> None:
        """Add rows, as before their first visit, until there are `num_rows`."""

    def forward(self, rows: Tensor) -> Tau:
        """Return tau of the anchors in rows `(M,)`: a number, a scalar tensor, or `(M,)`."""
        raise NotImplementedError

    def objective(self, loss: Tensor, by_log_tau: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Compute the value and the gradient of the objective that tau minimizes.

            minimizes      value            gradient of tau
            F / tau        F / tau          tau d(F / tau)/dtau = d(F / tau)/dlog tau
            F + rho tau    F / tau + rho    d(F + rho tau)/dtau

        Args:
            loss: `(S, M)` F / tau of each anchor.
            by_log_tau: `(S, M)` derivative of `loss` by log tau; None if tau is constant.

        Returns:
            Value and gradient, `(S, M)` each, or None for no gradient. The gradient is that of tau
            times the value.
        """
        return loss, by_log_tau

    def learns(self) -> bool:
        """Return whether a loss must call `learn` now."""
        return False

    def learn(self, rows: Tensor, gradient: Tensor) -> None:
        """Update tau of these rows `(M,)` from dF/dtau of each anchor, `(M,)`."""


class ConstantTemperature(Temperature):
    """A constant tau."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = self.minimum = value

    def forward(self, rows: Tensor) -> float:
        return self.value

    def extra_repr(self) -> str:
        return f"{self.value:g}"


class LearnedTemperature(Temperature):
    """One tau for all samples, a parameter: give `loss.parameters()` to the optimizer.

    The parameter is log tau, so a learning rate is a relative change, as with CLIP's
    `logit_scale = -log tau`.

    Args:
        initial: initial tau; 0.07 as CLIP.
        rho: None to minimize F/tau. Or a number, in nats, to minimize F + rho tau: tau settles
            where KL(p || uniform) equals rho on average, p the softmax over an anchor's negatives.
        minimum: lower bound of tau; 0.01 as CLIP, whose logit scale is at most 100.

    Raises:
        ValueError: rho <= 0 (tau would grow for ever), or initial below minimum.
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
            # Clamp the parameter, not the result, whose gradient would be 0 beyond the bound.
            with torch.no_grad():
                self.log_temperature.clamp_(min=math.log(self.minimum))
        return self.log_temperature.exp()

    def objective(self, loss: Tensor, by_log_tau: Tensor | None) -> tuple[Tensor, Tensor | None]:
        if self.rho is None:
            return loss, by_log_tau
        loss = loss + self.rho
        return loss, None if by_log_tau is None else loss + by_log_tau

    def extra_repr(self) -> str:
        aim = "F/tau" if self.rho is None else f"F + {self.rho:g} tau"
        return f"minimizes {aim}, minimum={self.minimum:g}"


class IndividualTemperature(PerSample, Temperature):
    """iSogCLR: one tau per sample (of each side), which minimizes F + rho tau.

    Samples with many near neighbours end with a larger tau than isolated samples. tau is state
    of the loss, not a parameter. Each visit of a sample takes a step of gradient descent with
    momentum:

        v <- momentum v + (1 - momentum) dF/dtau,   tau <- clip(tau - learning_rate v)

    Args:
        initial: tau of a sample before its first visit.
        rho: in nats; tau settles where KL(p || uniform) equals rho, p the softmax over the sample's
            negatives. A larger rho makes tau smaller. rho must be below log(number of samples).
        minimum, maximum: bounds of tau.
        learning_rate: step size of tau.
        momentum: weight of the earlier velocity v, in [0, 1).

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
            raise ValueError(
                "IndividualTemperature has one tau per sample: use a loss with num_samples"
            )
        table = copy.deepcopy(self)
        # The last row is a spare for invalid ids, as in the normalizer table.
        table.register_state("tau", torch.full((num_rows + 1,), self.initial))
        table.register_state("velocity", torch.zeros(num_rows + 1))
        return table

    def grow(self, num_rows: int) -> None:
        require_growth(len(self.tau) - 1, num_rows)
        self.tau = append_rows(self.tau, num_rows, torch.tensor(self.initial))
        self.velocity = append_rows(self.velocity, num_rows, torch.tensor(0.0))

    def forward(self, rows: Tensor) -> Tensor:
        return self.tau[rows]

    def objective(self, loss: Tensor, by_log_tau: Tensor | None) -> tuple[Tensor, Tensor | None]:
        return loss + self.rho, None  # no gradient: `learn` takes the steps of tau

    def learns(self) -> bool:
        return self.training and torch.is_grad_enabled()

    @torch.no_grad()
    def learn(self, rows: Tensor, gradient: Tensor) -> None:
        """Take one step for each row, along the mean of its finite gradients, if it has one."""
        mean = mean_over_equal_rows(rows, gradient)
        tau, velocity = self.tau[rows], self.velocity[rows]
        slope = (mean + self.rho).to(tau.dtype)
        new_velocity = self.momentum * velocity + (1 - self.momentum) * slope
        new_tau = (tau - self.learning_rate * new_velocity).clamp(self.minimum, self.maximum)
        finite = new_velocity.isfinite()
        self.velocity[rows] = torch.where(finite, new_velocity, velocity)
        self.tau[rows] = torch.where(finite, new_tau, tau)

    def extra_repr(self) -> str:
        return f"rho={self.rho:g}, bounds=({self.minimum:g}, {self.maximum:g})"


def as_temperature(temperature: float | Temperature) -> Temperature:
    """Return a module as it is; make a positive number a `ConstantTemperature`."""
    if isinstance(temperature, Temperature):
        return temperature
    if isinstance(temperature, Tensor) and temperature.requires_grad:
        raise ValueError(UNBOUNDED)
    if not (temperature > 0 and math.isfinite(temperature)):
        raise ValueError(f"temperature must be a positive number, got {temperature}")
    return ConstantTemperature(float(temperature))


def column(tau: Tau) -> Tau:
    """Return tau in a shape that divides similarities `(M, N)`: `(M, 1)` if it is `(M,)`."""
    return tau[:, None] if isinstance(tau, Tensor) and tau.ndim == 1 else tau


def read_tau(tau: Tau) -> Tau:
    """Return tau without graph; a scalar tensor becomes a number. Waits for the device."""
    if isinstance(tau, Tensor):
        return tau.detach() if tau.ndim else tau.item()
    return tau


def _check_rho(rho: float | None) -> None:
    if rho is not None and not 0 < rho < math.inf:
        raise ValueError(f"rho must be above 0, got {rho}: {UNBOUNDED}")


def _check_bounds(minimum: float, initial: float, maximum: float) -> None:
    if not (0 < minimum <= initial <= maximum and math.isfinite(initial)):
        raise ValueError(
            "temperature must be a positive number within its bounds, "
            f"got {initial} in [{minimum}, {maximum}]"
        )
