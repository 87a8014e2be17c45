"""Read and check the moving averages u that a run of LibAUC or FastCLIP has saved.

    library, loss         u             average over negatives of            shift
    LibAUC's GCLoss_v1    u             exp(s / tau)
    LibAUC's GCLoss_v2    u1, u2        exp((s - positive) / tau - shift)    b1, b2
    FastCLIP v0, v1, v3   u_im, u_tt    exp((s - positive) / tau)
    FastCLIP v2           u_im, u_tt    exp((s - positive) / tau - shift)    bound_im, bound_tt

s is the similarity of the anchor to a negative. u is 0 before the first visit of a sample. With a
temperature for each sample, tau and its velocity have names of their own.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..common.errors import UserError, shorten
from ..models.weight_files import read_state

__all__ = ["ForeignSide", "ForeignTable", "Source", "read_foreign_table"]

Source = str | Path | Mapping[str, Any] | Tensor | nn.Module

SAVE = (
    "save the tensors of the loss: {name: value for name, value in vars(loss_fn.loss_fn).items() "
    "if isinstance(value, (torch.Tensor, float))}"
)


@dataclass(frozen=True)
class ForeignSide:
    """The stored u and temperatures of the N samples of one side.

    Attributes:
        name: of its u, for messages.
        log_u: `(N,)` float64, the shift added; -inf for samples without a visit.
        tau: `(N,)` temperatures; or one for all samples; None if it is not known.
        velocity: `(N,)`, the moving average of the gradient of tau; None if there is none.
    """

    name: str
    log_u: Tensor
    tau: Tensor | float | None
    velocity: Tensor | None


@dataclass(frozen=True)
class ForeignTable:
    """One side for two views, two for pairs.

    Attributes:
        sides: of images and of texts.
        less_positive: whether the positive was subtracted from the similarities in u.
        epochs: number of epochs of the run, if it was saved.
    """

    sides: tuple[ForeignSide, ...]
    less_positive: bool
    epochs: int | None


@dataclass(frozen=True)
class Names:
    """Under which names a library saves one side; None for what it does not have."""

    u: str
    shift: str | None
    tau: str
    velocity: str | None


TWO_VIEWS = (Names("u", None, "learnable_tau", "grad_tau"),)
PAIRS = (
    Names("u1", "b1", "learnable_tau_img", "grad_tau_img"),
    Names("u2", "b2", "learnable_tau_txt", "grad_tau_txt"),
)
FASTCLIP = (Names("u_im", "bound_im", "tau_im", None), Names("u_tt", "bound_tt", "tau_tt", None))


def read_foreign_table(source: Source) -> ForeignTable:
    """Read the table of a LibAUC or FastCLIP run, see `sogclr.import_table`.

    Raises:
        UserError: there is no u, or it cannot be what these libraries save.
    """
    state = _open(source)
    for layout in (TWO_VIEWS, PAIRS, FASTCLIP):
        if any(names.u in state for names in layout):
            tau = _shared_tau(state)
            sides = tuple(_read_side(state, names, tau) for names in layout)
            epochs = state.get("epoch")
            known = isinstance(epochs, int) and epochs > 0
            return ForeignTable(sides, layout is not TWO_VIEWS, epochs if known else None)
    found = shorten(", ".join(map(str, state))) or "nothing"
    raise UserError(
        f"source: has no u, u1 and u2, or u_im and u_tt; it has {found}. "
        f"LibAUC's state_dict() does not hold u; {SAVE}"
    )


def _open(source: Source) -> Mapping[str, Any]:
    if isinstance(source, str | Path):
        source = read_state(Path(source), "source")
    if isinstance(source, nn.Module):
        return vars(getattr(source, "loss_fn", source))  # GCLoss wraps GCLoss_v1 or GCLoss_v2
    if isinstance(source, Tensor):
        return {"u": source}
    if not isinstance(source, Mapping):
        raise UserError(
            "source: must be a path, a dict of tensors, a tensor or a loss of LibAUC or FastCLIP, "
            f"got {type(source).__name__}"
        )
    return source


def _shared_tau(state: Mapping[str, Any]) -> float | None:
    """Return the temperature of all samples: LibAUC's, or that of FastCLIP's model."""
    tau = state.get("tau")
    if isinstance(tau, float) or (isinstance(tau, Tensor) and tau.numel() == 1):
        return float(tau)
    model = state.get("state_dict")
    if isinstance(model, Mapping):
        for name in ("logit_scale", "module.logit_scale"):
            if isinstance(model.get(name), Tensor):
                return math.exp(-float(model[name]))
    return None


def _read_side(state: Mapping[str, Any], names: Names, shared_tau: float | None) -> ForeignSide:
    u = _column(state, names.u)
    _refuse(u, ~u.isfinite(), names.u, "is not finite (0 instead lets a sample begin anew)")
    _refuse(u, u < 0, names.u, "is negative")
    if not (u > 0).any():
        raise UserError(f"{names.u}: is 0 for all {len(u)} samples: none has been visited")
    log_u, tau, velocity = u.log(), None, None
    if names.tau in state:
        tau = _column(state, names.tau, len(u))
        _refuse(tau, ~((tau > 0) & tau.isfinite()), names.tau, "is not a positive number")
    # FastCLIP subtracts a shift only if every sample has its own tau, GCLoss_v2 always.
    expected, shift_name = names in PAIRS or tau is not None, names.shift
    if shift_name is not None and (expected or shift_name in state):
        shift = _column(state, shift_name, len(u))
        _refuse(shift, ~shift.isfinite(), shift_name, "is not finite")
        log_u = log_u + shift
    if tau is not None and names.velocity is not None and names.velocity in state:
        velocity = _column(state, names.velocity, len(u))
        _refuse(velocity, ~velocity.isfinite(), names.velocity, "is not finite")
    return ForeignSide(names.u, log_u, shared_tau if tau is None else tau, velocity)


def _column(state: Mapping[str, Any], name: str, length: int | None = None) -> Tensor:
    """Return a tensor `(N,)` or `(N, 1)` as `(N,)` in float64."""
    value = state.get(name)
    if value is None:
        raise UserError(f"{name}: is missing, but belongs to what was saved with it; {SAVE}")
    if not isinstance(value, Tensor) or not value.is_floating_point():
        kind = value.dtype if isinstance(value, Tensor) else type(value).__name__
        raise UserError(f"{name}: must be a tensor of floats, got {kind}")
    shape = tuple(value.shape)
    if len(shape) not in (1, 2) or shape[1:] not in ((), (1,)) or not value.numel():
        raise UserError(f"{name}: must have the shape (N,) or (N, 1), got {shape}")
    if length not in (None, len(value)):
        raise UserError(f"{name}: has {len(value)} samples, but its u has {length}")
    return value.detach().flatten().to("cpu", torch.float64)


def _refuse(values: Tensor, wrong: Tensor, name: str, what: str) -> None:
    """Refuse values `(N,)` where some are `wrong`, and name the first of them."""
    if wrong.any():
        first = int(wrong.nonzero()[0])
        raise UserError(
            f"{name}: {what} for {int(wrong.sum())} of {len(values)} samples, the first is "
            f"{values[first]:g} at index {first}"
        )
