"""MoCo's two encoders: the trained one, and its moving average, which computes the keys."""

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from .encoders import ContrastiveModel

__all__ = ["MomentumModel"]


class MomentumModel(nn.Module):
    """A model that is trained, `query`, and its exponential moving average, `key`.

        key <- momentum key + (1 - momentum) query     once an optimizer step, see `update`

    The keys in the queue come from many steps. They can be compared because the encoder that
    computed them hardly changed (He et al., "Momentum Contrast", CVPR 2020, section 3.2).

    If a query and its key share the statistics of a batch, these reveal which key belongs to the
    query, and a network learns to read them instead of the image (ibid., section 3.3). The paper
    shuffles samples between devices, which needs several devices. Here the key encoder is always in
    eval mode, and its statistics are averages like its weights. So a key depends on its image alone
    (EMAN: Cai et al., "Exponential Moving Average Normalization", CVPR 2021). The statistics must
    be right from the first step on, see `prime`.

    timm computes the average of all parameters and floating-point buffers, and copies counters. The
    average is part of the state_dict, and so of checkpoints. It needs no gradient, so optimizers
    leave it alone.

    Args:
        model: the model that is trained; the average starts as a copy of it.
        momentum: weight of the old average in an update, in [0, 1).
    """

    def __init__(self, model: ContrastiveModel, momentum: float) -> None:
        from timm.utils import ModelEmaV3  # takes a second, which other methods do not need

        super().__init__()
        self.query = model
        self.key = ModelEmaV3(model, decay=momentum).requires_grad_(False)
        self.train(model.training)

    @property
    def encoder(self) -> nn.Module:
        """The trained encoder, which is evaluated and saved, as in MoCo's papers."""
        return self.query.encoder

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Map images `(B, 3, S, S)` to features `(B, width)`, projections and keys `(B, d)`."""
        features, queries = self.query(images)
        with torch.no_grad():
            _, keys = self.key(images)
        return features, queries, keys

    def train(self, mode: bool = True) -> "MomentumModel":
        super().train(mode)
        self.key.eval()
        return self

    def prime(self, images: Tensor) -> None:
        """Set the statistics of batch norm from one batch `(B, 3, S, S)`, before the first step.

        New modules have mean 0 and variance 1, which normalize hardly anything. All keys would then
        point the same way, the queries would follow them, and the model would recover slowly (12
        epochs of digits: kNN 84 % instead of 98 %).
        """
        update_bn([images], self.query)
        self.key.set(self.query)

    def update(self) -> None:
        """Update the average; call this once per optimizer step, not per micro-batch."""
        self.key.update(self.query)
