"""Embed one side of a data set of pairs with the towers of a run."""

from typing import Any

import numpy as np

from ..common.errors import UserError
from ..data.image_source import ImageSource
from ..data.texts import Texts
from ..models.pair_encoder import PairEncoder
from ..models.text_lengths import choose_texts, report_cut
from ..models.tower_features import cached_features, compute_features, plain_inputs
from ..models.tower_inputs import StoredFeatures

__all__ = ["embed_side"]


def embed_side(encoder: PairEncoder, side: ImageSource | Texts) -> np.ndarray:
    """Compute the embeddings of images or texts in the joint space.

    Args:
        encoder: the towers of a run, on any device.
        side: the images or the texts.

    Returns:
        `(n, d)` float32, not normalized; NaN for images that cannot be read.

    Raises:
        UserError: the run has no tower for this kind of data.
    """
    kind = "text" if isinstance(side, Texts) else "image"
    if kind not in encoder.towers:
        raise UserError(
            f"data: the run was trained on {encoder.spec.kinds}, it has no {kind} tower"
        )
    if isinstance(side, Texts):
        report_cut(encoder.tokenizer, choose_texts(side))
    spec = encoder.spec
    tower: Any = encoder.towers[kind]
    device = next(tower.parameters()).device
    what = f"embedding {len(side):,} {kind}s"
    if kind in spec.frozen:  # training may have computed and cached these features already
        features = cached_features(tower.body, kind, side, spec, encoder.tokenizer, device)
        return compute_features(tower.head, side, StoredFeatures(features, side.names), device)
    inputs = plain_inputs(side, spec, encoder.tokenizer)
    return compute_features(lambda x: tower(x)[1], side, inputs, device, what=what)
