"""Contrastive losses for two views of each sample, and for pairs.

Every softmax loss here is   mean over anchors of   log u - s(anchor, positive) / tau,

where s is the cosine similarity, tau the temperature and log u an estimate of the anchor's
log-normalizer. The classes differ in what they compare and in how they estimate log u:

                                   two views, negatives 2(B-1)   pairs, negatives B-1
    moving average per sample      GlobalContrastiveLoss         GlobalClipLoss
    this batch                     DecoupledContrastiveLoss      DecoupledClipLoss
    this batch and the positive    NTXentLoss (SimCLR)           ClipLoss
    a queue and the positive       MoCoLoss, negatives K

SigLipLoss, a baseline for pairs, has no normalizer. `sogclr.losses.temperature` has constant,
learned and individual temperatures.

Features are un-normalized `(B, d)` tensors of any float dtype, also under autocast. Similarities
are computed, exponentiated and summed in float32, or in float64 for float64 features.
A float32 feature longer than 1.8e19 counts as a zero vector, without gradient, since its squared
length overflows; `torch.nn.functional.normalize` does the same. Give float64 features then.

Scale. "cross-entropy" is the default: values and gradients of NTXentLoss, ClipLoss and MoCoLoss
equal those of torch's `cross_entropy`, open_clip and lightly. "temperature" multiplies the loss by
tau and takes the *mean* over negatives instead of their sum, so that values can be compared across
batch sizes and methods. Its gradient is tau times that of "cross-entropy". `pretrain` and `align`
train with "temperature". The global losses take the mean on both scales.

Several processes. If torch.distributed is initialized, a batch consists of the samples of all
processes, and each process passes its own samples. `process_group` is "auto" for the default group,
a group, or None for this process alone. The value is equal on all processes. The mean of the
gradients over processes, which DistributedDataParallel takes, is the gradient of one process with
the whole batch. State per sample stays equal on all processes. See `sogclr.distributed.exchange`.
"""

from .moco import MoCoLoss
from .pairs import ClipLoss, DecoupledClipLoss, GlobalClipLoss, PairLoss
from .siglip import SigLipLoss
from .two_view import DecoupledContrastiveLoss, GlobalContrastiveLoss, NTXentLoss, TwoViewLoss
from .validation import validation_loss

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
    "validation_loss",
]
