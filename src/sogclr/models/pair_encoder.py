"""`PairEncoder`: trained towers that encode images and texts into one space."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from ..common.errors import UserError
from ..data.views.crops import center_view
from ..data.views.pipeline import standardize
from .tower_inputs import padding_of
from .towers import PairSpec, Tower
from .user_inputs import Images, OneImage, as_pixels, as_rgb, as_texts

__all__ = ["PairEncoder"]


class PairEncoder(nn.Module):
    """Trained towers, in eval mode.

    Args:
        spec: description of the towers.
        towers: the towers by kind, "image" and "text".
        tokenizer: turns a list of texts into token ids `(n, L)`.
        log_temperature: log of the loss's temperature, or of its mean over individual ones.
        bias: the bias of SigLIP's loss; None for other losses.
    """

    def __init__(
        self,
        spec: PairSpec,
        towers: dict[str, Tower],
        tokenizer: Any,
        log_temperature: float,
        bias: float | None = None,
    ) -> None:
        super().__init__()
        self.spec, self.tokenizer = spec, tokenizer
        self.log_temperature, self.bias = log_temperature, bias
        self.towers = nn.ModuleDict(towers)
        self._padding = padding_of(spec, tokenizer)
        self.eval()

    @torch.no_grad()
    def encode_text(self, texts: str | Sequence[str]) -> Tensor:
        """Encode n texts as unit vectors `(n, d)` float32; one string is one text.

        Raises:
            UserError: an entry is not a string, or the run has no text tower.
        """
        texts = as_texts(texts)
        if not texts:  # not every tokenizer takes an empty list
            return self.encode_text([""])[:0]
        tokens = self.tokenizer(texts)
        if self._padding is not None:
            longest = int((tokens != self._padding).sum(dim=1).max())
            tokens = tokens[:, : max(1, longest)]
        return self._encode("text", tokens)

    @torch.no_grad()
    def encode_image(self, images: Images) -> Tensor:
        """Encode n images as unit vectors `(n, d)` float32.

        Args:
            images: one or several Pillow images or paths of image files, or `(n, 3, S, S)` of
                images that `preprocess` returned.

        Raises:
            UserError: an image cannot be read, or the run has no image tower.
        """
        self._require("image")
        pixels = as_pixels(images, self.preprocess, self.spec.image_size)
        if not len(pixels):  # not every tower takes an empty batch
            return self._encode("image", torch.zeros(1, *pixels.shape[1:]))[:0]
        return self._encode("image", pixels)

    def preprocess(self, image: OneImage) -> Tensor:
        """Turn a Pillow image or an image file into the image tower's input, `(3, S, S)` float32.

        Raises:
            UserError: the image cannot be read.
        """
        view = center_view(as_rgb(image), self.spec.image_size, share=1.0, sharp=True)
        pixels = torch.from_numpy(view)[None].float() / 255
        return standardize(pixels, self.spec.mean, self.spec.std)[0]

    def _require(self, kind: str) -> None:
        if kind not in self.towers:
            raise UserError(f"this run was trained on {' and '.join(self.spec.kinds)}: no {kind}s")

    def _encode(self, kind: str, inputs: Tensor) -> Tensor:
        self._require(kind)
        device = next(self.towers.parameters()).device
        return normalize(self.towers[kind](inputs.to(device))[1].float(), dim=-1)

    def to_open_clip(self) -> nn.Module:
        """Build an open_clip model (`CustomTextCLIP`) with the weights of the towers.

        Raises:
            UserError: open_clip has no such model: both sides are texts, or the image tower is a
                module of the user's own.
        """
        from open_clip import CustomTextCLIP

        spec = self.spec
        if spec.vision is None or spec.custom:
            what = "an image tower of your own" if spec.custom else "no image tower"
            raise UserError(f"open_clip: the run has {what}, which open_clip cannot build")
        text = {**spec.text, "hf_model_pretrained": False}
        vision = {**spec.vision, "timm_model_pretrained": False}
        model = CustomTextCLIP(
            spec.width, vision, text, quick_gelu=spec.quick_gelu, init_logit_bias=self.bias
        )
        for kind, name in (("image", "visual"), ("text", "text")):
            tower: Any = self.towers[kind]
            getattr(model, name).load_state_dict(tower.open_clip_state())
        with torch.no_grad():
            model.logit_scale.fill_(-self.log_temperature)
        return model.eval()
