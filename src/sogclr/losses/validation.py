"""The loss of held-out samples, which have no row in the table of the training samples."""

import torch
from torch import Tensor

from .base import ContrastiveLoss
from .pairs import ClipLoss, DecoupledClipLoss, GlobalClipLoss, PairLoss
from .temperature import IndividualTemperature, LearnedTemperature, Temperature
from .two_view import DecoupledContrastiveLoss, GlobalContrastiveLoss, NTXentLoss, TwoViewLoss

__all__ = ["validation_loss"]


@torch.no_grad()
def validation_loss(
    loss: ContrastiveLoss,
    a: Tensor,
    b: Tensor,
    index: Tensor | None = None,
    *,
    group: Tensor | None = None,
) -> Tensor:
    """Compute the objective of a loss on held-out samples, with normalizers of this batch alone.

    `loss.eval()` is not meant for held-out samples: it reads the normalizers of training samples
    with the same ids. These do not change if the encoder collapses, so its loss would be smallest.

    The values of batches of one size can be compared, and their mean over batches estimates the
    objective. The larger the batches are, the less they underestimate it.

    Args:
        loss: a loss that trains, such as `GlobalContrastiveLoss`. Nothing in it changes. Its
            temperature is used, without the term rho; of individual temperatures, their mean over
            the training samples.
        a, b: `(B, d)` features of two views, or of both sides of pairs.
        index: `(B,)` integers that identify the samples, not necessarily below `num_samples`.
            Default: all samples are different.
        group: `(B,)` integers, for pairs only, see `GlobalClipLoss.forward`.

    Returns:
        A scalar without graph. Only this process's samples count.

    Raises:
        TypeError: a loss without an objective of the batch alone, such as `MoCoLoss`.
        ValueError: a group for two views; shapes that do not match.
    """
    held_out: ContrastiveLoss
    ids = {"index": index}
    if isinstance(loss, GlobalClipLoss | DecoupledClipLoss | ClipLoss):
        held_out = PairLoss(_shared(loss.temperature_a), scale=loss.scale, process_group=None)
        ids["group"] = group
    elif not isinstance(loss, GlobalContrastiveLoss | DecoupledContrastiveLoss | NTXentLoss):
        raise TypeError(f"{type(loss).__name__} has no objective of the batch alone")
    elif group is not None:
        raise ValueError("group is for losses of pairs; give samples that are equal the same index")
    elif isinstance(loss, GlobalContrastiveLoss) and loss.num_stored_views is None:
        # A new table makes u the mean of ĝ over both views of a sample, as in training.
        held_out = GlobalContrastiveLoss(
            len(a), temperature=_shared(loss.temperature), scale=loss.scale, process_group=None
        ).to(a.device)
        ids = {"index": torch.arange(len(a)), "sample_key": index}
    else:
        held_out = TwoViewLoss(_shared(loss.temperature), scale=loss.scale, process_group=None)
    for name in ("positive_in_normalizer", "sums_negatives", "effective_negatives"):
        setattr(held_out, name, getattr(loss, name))
    return held_out(a, b, **ids)


def _shared(temperature: Temperature) -> float | Temperature:
    """Return a temperature for all samples that does not learn."""
    if isinstance(temperature, IndividualTemperature):
        return float(temperature.tau[:-1].mean())  # the last row is a spare
    if isinstance(temperature, LearnedTemperature):
        return float(temperature.log_temperature.exp())
    return temperature
