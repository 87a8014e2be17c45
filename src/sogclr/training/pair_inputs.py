"""Choose how the inputs of each side are made, by its kind and whether its tower is frozen."""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
from torch import nn

from ..data.pair_source import PairSource
from ..models.tower_features import (
    cached_features,
    compute_features,
    find_cached_features,
    plain_inputs,
)
from ..models.tower_inputs import (
    CenterViews,
    DrawnViews,
    Encoded,
    ImageViews,
    Inputs,
    StoredFeatures,
    Tokenizer,
    padding_of,
)
from ..models.towers import PairSpec, Tower
from ..planning.pairs import PairPlan

__all__ = ["PairInputs", "RehearsedInputs"]

FEW = 16  # samples whose features are computed in a rehearsal


class PairInputs:
    """Makes the inputs of sides. A frozen tower's features are computed once and stored.

    Args:
        spec: the description of the towers.
        towers: the towers by kind, "image" or "text".
        tokenizer: open_clip's tokenizer.
        plan: the plan of the run.
        device: the device where features are computed.
    """

    def __init__(
        self,
        spec: PairSpec,
        towers: dict[str, Tower],
        tokenizer: Any,
        plan: PairPlan,
        device: torch.device,
    ) -> None:
        self.spec, self.towers, self.tokenizer = spec, towers, tokenizer
        self.plan, self.device = plan, device
        self._stored: dict[int, StoredFeatures] = {}  # by id of the side, for training and scoring

    def training(self, side: Any) -> Inputs:
        """Return the inputs of a side of `PairSource` for training, with augmented images."""
        kind = _kind(side)
        if kind in self.spec.frozen or kind == "text":
            return self._plain(side)
        return ImageViews(side, self.spec, self.plan.views, self.plan.request.seed)

    def streamed(
        self, autocast: Callable[[], AbstractContextManager]
    ) -> tuple[DrawnViews | CenterViews, Tokenizer, dict[str, Encoded]]:
        """Return the inputs of a stream: images, captions and, by kind, features of frozen towers.

        Features of a stream are computed in every step, since a stream is too long to store them.

        Args:
            autocast: enters the precision of the run.
        """
        frozen = self.spec.frozen
        drawn = DrawnViews(self.spec, self.plan.views)
        views = CenterViews(self.spec) if "image" in frozen else drawn
        tokens = Tokenizer(self.tokenizer, padding_of(self.spec, self.tokenizer))
        encoded = {}
        for kind, inputs in (("image", views), ("text", tokens)):
            if kind in frozen:
                body = self.towers[kind].body.to(memory_format=torch.channels_last)
                encoded[kind] = Encoded(inputs, body.to(self.device), autocast)
        return views, tokens, encoded

    def plain(self, source: PairSource) -> tuple[Inputs, Inputs]:
        """Return the inputs of both sides without augmentation, to score them."""
        return self._plain(source.a), self._plain(source.b)

    def _plain(self, side: Any) -> Inputs:
        kind = _kind(side)
        if kind not in self.spec.frozen:
            return plain_inputs(side, self.spec, self.tokenizer)
        body = self.towers[kind].body
        if id(side) not in self._stored:
            features = self._features(body, kind, side)
            self._stored[id(side)] = StoredFeatures(features, side.names)
        return self._stored[id(side)]

    def _features(self, body: nn.Module, kind: str, side: Any) -> np.ndarray:
        """Return the features `(n, w)` of a side by a frozen body."""
        return cached_features(body, kind, side, self.spec, self.tokenizer, self.device)


class RehearsedInputs(PairInputs):
    """Makes inputs as `PairInputs`, but a frozen tower computes features of a few samples only.

    Attributes:
        seconds: time that the features of all samples are expected to take.
    """

    seconds = 0.0

    def _features(self, body: nn.Module, kind: str, side: Any) -> np.ndarray:
        """Return features in the cache, or those of one sample for all samples."""
        cached = find_cached_features(body, kind, side, self.spec, self.tokenizer)
        if cached is not None:
            return cached
        inputs = plain_inputs(side, self.spec, self.tokenizer)
        rows = np.arange(min(FEW, len(side)))
        started = time.perf_counter()
        features = compute_features(body.eval(), side, inputs, self.device, rows=rows)
        self.seconds += (time.perf_counter() - started) / len(rows) * len(side)
        row = features[rows][~np.isnan(features[rows, 0])][0]  # (w,)
        return np.broadcast_to(row, (len(side), len(row)))


def _kind(side: Any) -> str:
    return "text" if hasattr(side, "texts") else "image"
