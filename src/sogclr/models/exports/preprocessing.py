"""Describe in numbers what becomes of an image before a model receives it, for other programs."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import normalize

from ...data.views.crops import center_view, shorter_side
from ..image_encoder import ImageEncoder
from ..pair_encoder import PairEncoder

__all__ = ["FromPixels", "FromTokens", "Preprocessing"]


@dataclass(frozen=True)
class Preprocessing:
    """The preprocessing of images: resize, cut out the centre, scale to [0, 1], standardize.

    Attributes:
        image_size: side of the square in pixels that the model receives.
        shorter_side: pixels to which the shorter side of an image is resized first.
        resampling: "bilinear" or "bicubic", with antialiasing, as Pillow resizes.
        mean, std: of each channel, for pixels in [0, 1].
    """

    image_size: int
    shorter_side: int
    resampling: str
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def of(cls, model: ImageEncoder | PairEncoder) -> "Preprocessing":
        """Return the preprocessing of a model's images."""
        spec, of_pairs = model.spec, isinstance(model, PairEncoder)
        return cls(
            image_size=spec.image_size,
            shorter_side=shorter_side(spec.image_size, 1.0 if of_pairs else None),
            resampling="bicubic" if of_pairs else "bilinear",
            mean=tuple(spec.mean),
            std=tuple(spec.std),
        )

    def pixels(self, image: Image.Image) -> NDArray[np.uint8]:
        """Resize an RGB image and cut out its centre, `(S, S, 3)` uint8."""
        share, sharp = self.image_size / self.shorter_side, self.resampling == "bicubic"
        view = center_view(image, self.image_size, share=share, sharp=sharp)
        return np.ascontiguousarray(view.transpose(1, 2, 0))  # (3, S, S) -> (S, S, 3)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


class FromPixels(nn.Module):
    """An encoder of images that scales and standardizes their pixels itself.

    Args:
        encoder: the encoder of a run of `pretrain`, or the image tower of a run of `align`.
        preprocessing: what its images pass through.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, encoder: nn.Module, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.encoder = encoder
        for name in ("mean", "std"):
            values = torch.tensor(getattr(preprocessing, name)).view(1, 3, 1, 1)
            self.register_buffer(name, values)

    def forward(self, pixels: Tensor) -> Tensor:
        """Encode `(B, S, S, 3)` uint8 as `(B, d)` float32, of length 1 if a tower does."""
        images = pixels.permute(0, 3, 1, 2).to(torch.float32) / 255  # (B, 3, S, S)
        found = self.encoder((images - self.mean) / self.std)
        # A tower returns the features of its body, and their projections.
        return normalize(found[1].float(), dim=-1) if isinstance(found, tuple) else found.float()


class FromTokens(nn.Module):
    """A text tower that ends in unit vectors.

    Args:
        tower: the text tower of a run of `align`.
    """

    def __init__(self, tower: nn.Module) -> None:
        super().__init__()
        self.tower = tower

    def forward(self, tokens: Tensor) -> Tensor:
        """Encode token ids `(B, L)` int64 as unit vectors `(B, d)` float32."""
        return normalize(self.tower(tokens)[1].float(), dim=-1)
