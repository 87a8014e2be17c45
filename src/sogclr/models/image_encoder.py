"""`ImageEncoder`: a trained encoder of images, with the preprocessing that it expects."""

from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor, nn

from ..data.decode import to_rgb
from ..data.views.crops import center_view
from ..data.views.pipeline import standardize
from .encoders import EncoderSpec

__all__ = ["ImageEncoder"]


class ImageEncoder(nn.Module):
    """A trained encoder, in eval mode.

    Args:
        encoder: maps `(B, 3, S, S)` standardized images to features `(B, width)`.
        spec: description of the encoder.

    Attributes:
        encoder: the encoder itself, a plain module without preprocessing.
        spec: description of the encoder.
    """

    def __init__(self, encoder: nn.Module, spec: EncoderSpec) -> None:
        super().__init__()
        self.encoder, self.spec = encoder, spec
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Encode `(B, 3, S, S)` images that `preprocess` returned as features `(B, width)`."""
        return self.encoder(images)

    @torch.no_grad()
    def encode_image(self, images: Tensor | Sequence[Image.Image]) -> Tensor:
        """Encode n images as features `(n, width)` float32, without gradients.

        Args:
            images: Pillow images, or `(n, 3, S, S)` of images that `preprocess` returned.
        """
        if not isinstance(images, Tensor):
            images = torch.stack([self.preprocess(image) for image in images])
        device = next((p.device for p in self.encoder.parameters()), images.device)
        return self.encoder(images.to(device)).float()

    def preprocess(self, image: Image.Image) -> Tensor:
        """Turn a Pillow image into the encoder's input, `(3, S, S)` float32, as in evaluation."""
        view = torch.from_numpy(center_view(to_rgb(image), self.spec.image_size))  # (3, S, S)
        return standardize(view[None].float() / 255, self.spec.mean, self.spec.std)[0]
