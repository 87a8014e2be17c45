"""Inputs of the towers: tokens, views of images, or stored features of a frozen tower.

Each kind has two parts: `prepare` runs in a loader worker, `to_model` on the device.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from ..common.options import Augmentation
from ..data.decode import UnreadableImageError
from ..data.image_source import ImageSource
from ..data.randomness import uniforms
from ..data.texts import Texts, UnreadableTextError
from ..data.views.crops import center_view, crop
from ..data.views.draws import DRAWS, crop_box
from ..data.views.pipeline import encoder_inputs, standardize
from .towers import PairSpec

__all__ = [
    "CenterImages",
    "CenterViews",
    "DrawnViews",
    "Encoded",
    "ImageViews",
    "Inputs",
    "Prepared",
    "StoredFeatures",
    "Tokenizer",
    "Tokens",
    "padding_of",
]


@dataclass(frozen=True)
class Prepared:
    """Some rows of one side.

    Attributes:
        tensor: one entry for each row that could be read.
        draws: `(number of entries, DRAWS)` random numbers for the augmentation, or None.
        readable: `(b,)` bool, which of the requested rows could be read.
        unreadable: `(name, reason)` of the other rows.
    """

    tensor: Tensor
    draws: np.ndarray | None
    readable: np.ndarray
    unreadable: list[tuple[str, str]]

    def pin_memory(self) -> "Prepared":
        return replace(self, tensor=self.tensor.pin_memory())

    def only(self, kept: np.ndarray) -> "Prepared":
        """Keep some of the entries.

        Args:
            kept: bool, one value for each entry.
        """
        draws = None if self.draws is None else self.draws[kept]
        return replace(self, tensor=self.tensor[torch.from_numpy(kept)], draws=draws)


class Inputs(Protocol):
    """The inputs of one side."""

    def prepare(self, rows: np.ndarray, epoch: int) -> Prepared:
        """Prepare the inputs of rows `(b,)` for an epoch, on the host."""

    def to_model(self, prepared: Prepared, device: torch.device) -> Tensor:
        """Return the tower's input on the device, without waiting for it."""


class Tokenizer:
    """Turns texts into token ids; trailing padding is cut off if the tower allows it.

    Args:
        tokenizer: a tokenizer of open_clip.
        pad: id of padding that may be cut off, or None.
    """

    def __init__(self, tokenizer: Any, pad: int | None) -> None:
        self.tokenizer, self.pad = tokenizer, pad

    def tokens(self, texts: list[str]) -> Tensor:
        """Return the token ids of b texts, `(b, L)` int64."""
        if not texts:  # some tokenizers refuse an empty list
            return torch.empty(0, 1, dtype=torch.int64)
        tokens = self.tokenizer(texts)  # (b, L)
        if self.pad is not None:
            longest = int((tokens != self.pad).sum(dim=1).max())
            tokens = tokens[:, : max(1, longest)].contiguous()
        return tokens

    def to_model(self, prepared: Prepared, device: torch.device) -> Tensor:
        return _move(prepared.tensor, device)


def padding_of(spec: PairSpec, tokenizer: Any) -> int | None:
    """Return the id of padding that may be cut off, or None.

    Hugging Face towers mask padding, so trailing padding may go; open_clip's own towers read it.
    """
    if "hf_model_name" not in spec.text:
        return None
    plain = tokenizer.tokenizer
    return plain.pad_token_id if plain.padding_side == "right" else None


class Tokens(Tokenizer):
    """Tokens of one side of texts.

    Args:
        texts: the texts of the side.
        tokenizer, pad: see `Tokenizer`.
    """

    def __init__(self, texts: Texts, tokenizer: Any, pad: int | None) -> None:
        super().__init__(tokenizer, pad)
        self.texts = texts

    def prepare(self, rows: np.ndarray, epoch: int) -> Prepared:
        texts = []
        readable = np.ones(len(rows), dtype=bool)
        unreadable = []
        for i, row in enumerate(rows):
            try:
                texts.append(self.texts.texts[row])
            except UnreadableTextError as error:
                readable[i] = False
                unreadable.append((error.args[0], error.args[1]))
        return Prepared(self.tokens(texts), None, readable, unreadable)


class DrawnViews:
    """One random view of each image; CLIP's usual settings crop little.

    Args:
        spec: description of the towers.
        views: resolved augmentation settings.
    """

    def __init__(self, spec: PairSpec, views: Augmentation) -> None:
        self.spec, self.views = spec, views

    def read(self, image: Callable[[int], Image.Image], draws: np.ndarray) -> Prepared:
        """Read b images and crop a random view of each.

        Args:
            image: returns image i, or raises UnreadableImageError.
            draws: `(b, DRAWS)` random numbers.
        """

        def view(i: int, image: Image.Image) -> np.ndarray:
            box = crop_box(draws[i], image.width, image.height, self.views.crop_min or 0.0)
            return crop(image, box, self.spec.image_size)

        prepared = _read(image, len(draws), view, self.spec.image_size)
        return replace(prepared, draws=draws[prepared.readable])

    def to_model(self, prepared: Prepared, device: torch.device) -> Tensor:
        assert prepared.draws is not None
        images = _move(prepared.tensor, device)
        return encoder_inputs(images, prepared.draws, self.views, self.spec.mean, self.spec.std)


class ImageViews(DrawnViews):
    """Random views of one side of images.

    Args:
        source: the images of the side.
        spec, views: see `DrawnViews`.
        seed: the run's seed.
    """

    def __init__(self, source: ImageSource, spec: PairSpec, views: Augmentation, seed: int) -> None:
        super().__init__(spec, views)
        self.source, self.seed = source, seed

    def prepare(self, rows: np.ndarray, epoch: int) -> Prepared:
        draws = uniforms(self.seed, epoch, self.source.ids[rows], 0, DRAWS)
        return self.read(lambda i: self.source.image(int(rows[i])), draws)


class CenterViews:
    """The central view of each image, without randomness.

    Args:
        spec: description of the towers.
    """

    def __init__(self, spec: PairSpec) -> None:
        self.spec = spec

    def read(self, image: Callable[[int], Image.Image], draws: np.ndarray) -> Prepared:
        """Read b images and make their central views; only the number of draws counts."""
        size = self.spec.image_size
        return _read(
            image,
            len(draws),
            lambda _, image: center_view(image, size, share=1.0, sharp=True),
            size,
        )

    def to_model(self, prepared: Prepared, device: torch.device) -> Tensor:
        images = _move(prepared.tensor, device).float() / 255
        return standardize(images, self.spec.mean, self.spec.std).contiguous(
            memory_format=torch.channels_last
        )


class CenterImages(CenterViews):
    """Central views of one side of images.

    Args:
        source: the images of the side.
        spec: description of the towers.
    """

    def __init__(self, source: ImageSource, spec: PairSpec) -> None:
        super().__init__(spec)
        self.source = source

    def prepare(self, rows: np.ndarray, epoch: int) -> Prepared:
        return self.read(lambda i: self.source.image(int(rows[i])), rows)


class Encoded:
    """Features of a frozen body, computed in every epoch: for streams, which are not cached.

    Args:
        inputs: the inputs of the body.
        body: the frozen body; it is not part of the trained model.
        autocast: returns a context that sets the precision of the run.
    """

    def __init__(
        self, inputs: Any, body: nn.Module, autocast: Callable[[], AbstractContextManager]
    ) -> None:
        self.inputs, self.body, self.autocast = inputs, body.eval(), autocast

    @torch.no_grad()
    def to_model(self, prepared: Prepared, device: torch.device) -> Tensor:
        with self.autocast():
            return self.body(self.inputs.to_model(prepared, device)).float()


class StoredFeatures:
    """Stored features of a frozen tower.

    Args:
        features: `(n, w)` float32, in memory or mapped; NaN in the rows of unreadable samples.
        names: n names of the samples.
    """

    def __init__(self, features: np.ndarray, names: Sequence[str]) -> None:
        self.features, self.names = features, names

    def prepare(self, rows: np.ndarray, epoch: int) -> Prepared:
        features = np.asarray(self.features[rows])  # (b, w)
        readable = ~np.isnan(features[:, 0])
        unreadable = [(self.names[row], "could not be read") for row in rows[~readable]]
        return Prepared(torch.from_numpy(features[readable]), None, readable, unreadable)

    def to_model(self, prepared: Prepared, device: torch.device) -> Tensor:
        return _move(prepared.tensor, device)


def _read(
    image: Callable[[int], Image.Image],
    count: int,
    view: Callable[[int, Image.Image], np.ndarray],
    size: int,
) -> Prepared:
    images = np.empty((count, 3, size, size), dtype=np.uint8)
    readable = np.ones(count, dtype=bool)
    unreadable = []
    for i in range(count):
        try:
            images[i] = view(i, image(i))
        except UnreadableImageError as error:
            readable[i] = False
            unreadable.append((error.args[0], error.args[1]))
    return Prepared(torch.from_numpy(images[readable]), None, readable, unreadable)


def _move(tensor: Tensor, device: torch.device) -> Tensor:
    # Only on CUDA is it safe to read a tensor while its copy is under way.
    return tensor.to(device, non_blocking=device.type == "cuda")
