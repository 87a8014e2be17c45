"""Compare what an exported model computes with what the model computes, on the same inputs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ...common.errors import UserError
from ..image_encoder import ImageEncoder
from ..pair_encoder import PairEncoder

__all__ = ["TOLERANCE", "Examples", "require_equal"]

TOLERANCE = 1e-4  # of the largest value of the vectors


@dataclass(frozen=True)
class Examples:
    """Inputs on which an exported model is compared, and the vectors that it must give.

    Attributes:
        images: RGB images; empty if the model takes none.
        texts: texts; empty if the model takes none.
        of_images: `(n, d)` float32, the model's vectors of the images.
        of_texts: `(m, d)` float32, the model's vectors of the texts.
        about: what the inputs are.
    """

    images: list[Image.Image]
    texts: list[str]
    of_images: Tensor
    of_texts: Tensor
    about: str

    @classmethod
    def encode(
        cls,
        model: ImageEncoder | PairEncoder,
        images: Sequence[Image.Image],
        texts: Sequence[str],
        about: str,
    ) -> "Examples":
        """Encode images and texts by a model; a model without a text tower takes no texts."""
        none = torch.empty(0, 0)
        return cls(
            list(images),
            list(texts),
            model.encode_image(list(images)) if images else none,
            model.encode_text(texts) if texts and isinstance(model, PairEncoder) else none,
            about,
        )


def require_equal(found: Any, expected: Tensor, what: str) -> float:
    """Compare vectors with those that the model gives.

    Args:
        found: `(n, d)`, a tensor or an array.
        expected: `(n, d)`.
        what: what was exported, for the message.

    Returns:
        The largest difference, as a share of the largest expected value.

    Raises:
        UserError: the difference is larger than `TOLERANCE`.
    """
    vectors = torch.as_tensor(found).float()
    if vectors.shape != expected.shape:
        raise UserError(f"{what}: gives {tuple(vectors.shape)}, not {tuple(expected.shape)}")
    scale = float(expected.abs().max().clamp_min(torch.finfo(torch.float32).tiny))
    difference = float((vectors - expected).abs().max()) / scale
    if not difference <= TOLERANCE:  # also if it is no number
        raise UserError(
            f"{what}: its vectors differ from those of the run by {difference:.1e} of the largest "
            f"value, more than {TOLERANCE:g}"
        )
    return difference
