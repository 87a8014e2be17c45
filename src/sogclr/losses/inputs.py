"""Between what a loss is given, features and ids, and what it compares."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import reduce
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..distributed.exchange import Shares
from .equal_rows import TRITON

__all__ = [
    "UnitVectors",
    "check_shapes",
    "distinct",
    "fuses",
    "never_negatives",
    "wants_gradients",
    "with_gradients",
    "without_autocast",
]

EPSILON = 1e-12  # as torch.nn.functional.normalize
HALF = (torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class UnitVectors:
    """Features on the sphere, in float32 at least, without graph.

    Attributes:
        vectors: `(2, N, d)`.
        length: `(2, N, 1)` of the features.
    """

    vectors: Tensor
    length: Tensor

    @classmethod
    def of(cls, a: Tensor, b: Tensor) -> "UnitVectors":
        """Of features `(N, d)` of two sides, of any float dtype."""
        features = torch.stack([a.detach(), b.detach()])
        features = features if features.dtype == torch.float64 else features.float()
        length = torch.linalg.vector_norm(features, dim=-1, keepdim=True).clamp_(min=EPSILON)
        return cls(features.div_(length), length)

    def by_features(self, gradient: Tensor, *pulled: tuple[Tensor, Tensor]) -> Tensor:
        """The gradient by the features, `(2, N, d)`.

        Args:
            gradient: `(2, N, d)` by the vectors, but for what comes of pairs; it is overwritten.
            pulled: of either side, `(N, 1)` minus the gradient by the similarity to the partner,
                and the partner's vectors `(N, d)`.
        """
        for own, (pull, partner) in zip(gradient, pulled, strict=True):
            own.addcmul_(pull, partner, value=-1)
        radial = torch.linalg.vecdot(gradient, self.vectors).unsqueeze(-1)
        return gradient.addcmul_(self.vectors, radial, value=-1).div_(self.length)


class _Known(torch.autograd.Function):
    """A scalar whose gradients are known when it is."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, count: int, *tensors: Tensor) -> Tensor:
        ctx.save_for_backward(*tensors[count:])
        return value.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        gradients = [grad * known for known in ctx.saved_tensors]
        return None, None, *gradients, *(None for _ in gradients)


def with_gradients(value: Tensor, *known: tuple[Tensor, Tensor]) -> Tensor:
    """The value with a graph that leads to each of the given tensors by the gradient beside it.

    It can be differentiated once, not twice.
    """
    inputs, gradients = zip(*known, strict=True)
    return _Known.apply(value, len(inputs), *inputs, *gradients)


def wants_gradients(*features: Tensor) -> bool:
    """Whether a gradient by any of these will be asked for."""
    return torch.is_grad_enabled() and any(each.requires_grad for each in features)


def without_autocast(device: torch.device) -> AbstractContextManager[Any]:
    """Numbers as they are, where features may come from mixed precision."""
    if torch.amp.is_autocast_available(device.type) and torch.is_autocast_enabled(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()


def fuses(a: Tensor, b: Tensor) -> bool:
    """Whether the kernels of `backends.fused` serve features `(B, d)` of both sides."""
    return TRITON and a.is_cuda and b.is_cuda and a.dtype == b.dtype and a.dtype in HALF


def distinct(features: Tensor, shares: Shares | None) -> Tensor:
    """The ids of samples nobody named: all different, on all processes, `(B,)`."""
    first = 0 if shares is None else shares.own.start
    return torch.arange(first, first + features.shape[0], device=features.device)


def check_shapes(a: Tensor, b: Tensor, *ids: Tensor) -> None:
    """Raise ValueError unless features are `(B, d)` twice and all ids `(B,)`."""
    if a.ndim != 2 or a.shape != b.shape or any(index.shape != a.shape[:1] for index in ids):
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in (a, b, *ids))
        raise ValueError(f"expected features (B, d), (B, d) and ids (B,), got {shapes}")


def never_negatives(
    ids: list[Tensor],
    rows: slice = slice(None),
    columns: slice = slice(None),
    there: Tensor | None = None,
) -> Tensor:
    """`(n, m)` bool: entries that are positives or absent, since they share an id or a group.

    Args:
        ids: `(B,)` each; equal ones of any.
        rows: of the matrix of all, which are wanted.
        columns: as rows.
        there: `(B,)` bool, whom there is at all; default: everyone.
    """
    same = [each[rows, None] == each[None, columns] for each in ids]
    if there is not None:
        same.append(~(there[rows, None] & there[None, columns]))
    return reduce(torch.logical_or, same)
