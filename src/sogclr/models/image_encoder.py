"""`ImageEncoder`: a trained encoder of images, with the preprocessing that it expects."""

import torch
from torch import Tensor, nn

from ..data.views.crops import center_view
from ..data.views.pipeline import standardize
from .encoders import EncoderSpec
from .user_inputs import Images, OneImage, as_pixels, as_rgb

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
    def encode_image(self, images: Images) -> Tensor:
        """Encode n images as features `(n, width)` float32, without gradients.

        Args:
            images: one or several Pillow images or paths of image files, or `(n, 3, S, S)` of
                images that `preprocess` returned.

        Raises:
            UserError: an image cannot be read, or `images` is something else.
        """
        pixels = as_pixels(images, self.preprocess, self.spec.image_size)
        device = next((p.device for p in self.encoder.parameters()), pixels.device)
        if not len(pixels):  # not every module takes an empty batch
            one = torch.zeros(1, *pixels.shape[1:], device=device)
            return self.encoder(one)[:0].float()
        return self.encoder(pixels.to(device)).float()

    def preprocess(self, image: OneImage) -> Tensor:
        """Turn a Pillow image or an image file into the encoder's input, as in evaluation.

        Returns:
            `(3, S, S)` float32.

        Raises:
            UserError: the image cannot be read.
        """
        view = torch.from_numpy(center_view(as_rgb(image), self.spec.image_size))  # (3, S, S)
        return standardize(view[None].float() / 255, self.spec.mean, self.spec.std)[0]
