"""MoCo's two encoders: the trained one, and its moving average, which computes the keys."""

import torch
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from .encoders import ContrastiveModel

__all__ = ["MomentumModel"]


class MomentumModel(nn.Module):
    """A model that is trained, `query`, and its exponential moving average, `key`.

        key <- momentum key + (1 - momentum) query     once an optimizer step, see `update`

    Keys in the queue were made over many steps; they compare because the encoder that made them
    has hardly changed (He et al., "Momentum Contrast", CVPR 2020, section 3.2).

    Batch norm. The statistics of a batch that a query and its key share tell which key is its
    own, and a network learns to read that instead of the image (ibid., section 3.3). Shuffling
    samples between devices, the paper's remedy, needs several of them. Here the key encoder is
    in eval mode always and its statistics are averages like its weights, so that a key depends
    on its image alone (EMAN: Cai et al., "Exponential Moving Average Normalization", CVPR 2021).

    Such keys need statistics that are true from the first step on, see `prime`.

    The average is timm's: of all in the state_dict, parameters and floating buffers; counters
    are copied. It is part of this module's state_dict, so a checkpoint has it. Its parameters
    want no gradient, so that no optimizer takes them up.

    Args:
        model: to be trained; the average starts as a copy of it.
        momentum: weight of the average as it was, in [0, 1).
    """

    def __init__(self, model: ContrastiveModel, momentum: float) -> None:
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

        With mean 0 and variance 1, as modules are built, hardly anything is normalized: all keys
        point the same way, the queries follow them, and what has collapsed is slow to come back
        (12 epochs of digits: kNN 84 % instead of 98 %).
        """
        update_bn([images], self.query)
        self.key.set(self.query)

    def update(self) -> None:
        """Update the average; call it once per optimizer step, also with several micro-batches."""
        self.key.update(self.query)
