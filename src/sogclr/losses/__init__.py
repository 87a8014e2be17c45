"""Contrastive losses: what is compared (two views, or pairs), times how log g is estimated.

Every softmax loss here is   mean over anchors of   -s(anchor, positive) + tau log u,

s the cosine similarity, tau the temperature, log u the estimate of the anchor's
log-normalizer. The classes differ in two choices only:

                                   two views, negatives 2(B-1)   pairs, negatives B-1
    per sample, over time          GlobalContrastiveLoss         GlobalClipLoss
    in the batch                   DecoupledContrastiveLoss      DecoupledClipLoss
    in the batch, with positive    NTXentLoss (SimCLR)           ClipLoss
    in a queue, with positive      MoCoLoss, negatives K

SigLipLoss, beside them, has no normalizer. The temperature is a third, independent choice, see
`sogclr.losses.temperature`.

Features come un-normalized, `(B, d)`, in any float dtype, also under autocast: similarities
are formed, exponentiated and summed in float32 (float64 stays float64).

Scale. On "cross-entropy", the default, in-batch losses sum over negatives: NTXentLoss, ClipLoss and
MoCoLoss equal `cross_entropy(logits, positive)`, as published. "temperature" multiplies by tau and
takes the *mean* over negatives, so that values can be compared across batch sizes and methods.

Several processes. Where torch.distributed is initialized, the batch is all processes' together,
and every process is given its own samples: `process_group="auto"`, or a group, or None for this
process alone. The value is the same everywhere, and the gradient such that the mean over
processes, which DistributedDataParallel takes, is that of one process with the whole batch. What
is kept per sample stays the same on all of them. See `sogclr.distributed.exchange`.
"""

from .moco import MoCoLoss
from .pairs import ClipLoss, DecoupledClipLoss, GlobalClipLoss, PairLoss
from .siglip import SigLipLoss
from .two_view import DecoupledContrastiveLoss, GlobalContrastiveLoss, NTXentLoss, TwoViewLoss

__all__ = [
    "ClipLoss",
    "DecoupledClipLoss",
    "DecoupledContrastiveLoss",
    "GlobalClipLoss",
    "GlobalContrastiveLoss",
    "MoCoLoss",
    "NTXentLoss",
    "PairLoss",
    "SigLipLoss",
    "TwoViewLoss",
]
