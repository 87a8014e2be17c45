"""`ImageClassifier`: an encoder with a linear head that maps its features to classes."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .encoders import EncoderSpec
from .image_encoder import ImageEncoder
from .user_inputs import Images

__all__ = ["ImageClassifier"]


class ImageClassifier(ImageEncoder):
    """A classifier of images, in eval mode.

    Args:
        encoder: maps `(B, 3, S, S)` standardized images to features `(B, width)`.
        head: maps features to the logits of the classes.
        spec: description of the encoder.
        classes: the names of the classes, in the order of the logits.

    Attributes:
        encoder, head, spec, classes: the arguments.
    """

    def __init__(
        self, encoder: nn.Module, head: nn.Linear, spec: EncoderSpec, classes: Sequence[str]
    ) -> None:
        super().__init__(encoder, spec)
        self.head, self.classes = head, list(classes)
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Map `(B, 3, S, S)` images that `preprocess` returned to logits `(B, classes)`."""
        return self.head(self.encoder(images))

    @torch.no_grad()
    def probabilities(self, images: Images) -> Tensor:
        """Return the probability of each class for n images, `(n, classes)` float32.

        Args:
            images: as `encode_image` takes them.
        """
        return self.head(self.encode_image(images)).softmax(dim=1)

    def classify(self, images: Images) -> list[tuple[str, float]]:
        """Return the most probable class of each image, and its probability."""
        best = self.probabilities(images).max(dim=1)
        names = [self.classes[index] for index in best.indices.tolist()]
        return list(zip(names, best.values.tolist(), strict=True))
