"""One normalizer for all samples: a moving average of ĝ over all anchors of all batches.

    log u <- log( (1 - rate) u + rate mean(ĝ) )

It is the "matrix method" of SACLR. No sample has state of its own, so a stream needs no table. An
anchor's weight is ĝ/u: an anchor with many near negatives is pushed harder than in SogCLR, where
every sample has weight 1 on average.

Source: the authors' code, https://github.com/erlandbo/saclr-im1k (criterions/saclrall.py, with
`single_s`). As there, ĝ is averaged over the anchors of a batch with equal weights, and the u of a
batch comes from the batches before it. Their `temp` is the square root of tau, their
`rho` is 1 - rate, and their factor N² cancels. Two things differ:

- They mix an eighth (`alpha`) of the mean of exp(positive / tau) into the average, which makes u
  larger and all repulsion weaker. Here u estimates the normalizer of the objective, which has no
  positive: their alpha is 0.
- They start from a constant. Here the first 1/rate batches count equally, and the u of the first
  batch is its own mean.
"""

import math

import torch
from torch import Tensor

from .normalizer import Normalizer
from .per_sample import PerSample, require_forward_pass

__all__ = ["ScalarNormalizer"]


class ScalarNormalizer(PerSample, Normalizer):
    """One log u for all samples. Losses with it take batches without `index`.

    It is written in training mode with gradients enabled. An estimate that is not finite is never
    written. Processes that share a batch make equal updates.

    Args:
        num_rows: ignored; losses pass the number of their samples.
        rate: weight of a batch in the moving average, in (0, 1]; 0.01 as the authors'.
        dtype: float32, or float64 for exact tests.

    Attributes:
        state: `(2,)`, log u beside the number of batches; log u is -inf before the first one.

    Example:
        >>> from sogclr import GlobalContrastiveLoss
        >>> loss = GlobalContrastiveLoss(50_000, normalizer=ScalarNormalizer)
        >>> value = loss(torch.randn(64, 128), torch.randn(64, 128))
    """

    needs_ids = False
    state: Tensor

    def __init__(
        self,
        num_rows: int | None = None,
        *,
        rate: float = 0.01,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        if not 0 < rate <= 1:
            raise ValueError(f"rate must be in (0, 1], got {rate}")
        if dtype not in (torch.float32, torch.float64):
            raise ValueError(f"dtype of the scalar must be float32 or float64, got {dtype}")
        self.rate = rate
        self.register_state("state", torch.tensor([-math.inf, 0], dtype=dtype))

    def forward(self, rows: Tensor, log_g: Tensor) -> Tensor:
        """Average ĝ of a batch into the scalar, and return what `_before` does."""
        log_mean, counted = _log_mean(log_g)
        found = self._before(log_mean, log_g)
        if self.training and torch.is_grad_enabled():
            require_forward_pass()
            log_u, batches = self.state.to(log_mean.dtype).unbind()
            weight = (batches + 1).reciprocal().clamp_(min=self.rate)
            after = torch.logaddexp((-weight).log1p_() + log_u, weight.log() + log_mean)
            after = torch.stack([after, batches + 1]).to(self.state.dtype)
            self.state.copy_(torch.where(counted > 0, after, self.state))
        return found

    @torch.no_grad()
    def peek(self, rows: Tensor, log_g: Tensor) -> Tensor:
        return self._before(_log_mean(log_g)[0], log_g)

    def _before(self, log_mean: Tensor, log_g: Tensor) -> Tensor:
        """Return log u of the batches before this one, `(M,)`; `log_mean` if there are none."""
        log_u, batches = self.state.clone().unbind()  # a copy: forward changes the state
        return torch.where(batches > 0, log_u, log_mean).to(log_g.dtype).expand(log_g.shape)

    def extra_repr(self) -> str:
        return f"rate={self.rate}, {self.state.dtype}"


def _log_mean(log_g: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the log of the mean of ĝ over entries that are finite, and their number."""
    log_g = log_g.detach()
    finite = log_g.abs() < math.inf
    counted = finite.sum(dtype=log_g.dtype)
    total = torch.where(finite, log_g, -math.inf).logsumexp(0)
    return total - counted.clamp(min=1).log(), counted
