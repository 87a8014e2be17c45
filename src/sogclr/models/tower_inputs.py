"""What the towers are fed: tokens, views of images, or stored features of a frozen tower.

Each kind has two halves: `prepare` runs in a loader worker, `to_model` on the device.
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
from ..data.views.pipeline import DRAWS, center_view, crop, crop_box, encoder_inputs, standardize
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
]


@dataclass(frozen=True)
class Prepared:
    """Some rows of one side.

    Attributes:
        tensor: one entry a row that could be read.
        draws: what the rest of the augmentation derives from, of images.
        readable: `(b,)` bool, of the rows asked for.
        unreadable: `(name, reason)` of the others.
    """

    tensor: Tensor
    draws: np.ndarray | None
    readable: np.ndarray
    unreadable: list[tuple[str, str]]

    def pin_memory(self) -> "Prepared":
        return replace(self, tensor=self.tensor.pin_memory())

    def only(self, kept: np.ndarray) -> "Prepared":
        """Some entries, `kept` `(b,)` bool, of those that could be read."""
        draws = None if self.draws is None else self.draws[kept]
        return replace(self, tensor=self.tensor[torch.from_numpy(kept)], draws=draws)


class Inputs(Protocol):
    """A side, ready to be fed."""

    def prepare(self, rows: np.ndarray, epoch: int) -> Prepared:
        """The inputs of some rows `(b,)`, in an epoch."""

    def to_model(self, prepared: Prepared, device: torch.device) -> Tensor:
        """What the tower takes, on the device; waits for nothing."""


class Tokenizer:
    """Texts to token ids, padded to the longest of the batch where the tower allows it.

    Args:
        tokenizer: open_clip's.
        pad: the id of padding, where trailing padding may be cut off; else None.
    """

    def __init__(self, tokenizer: Any, pad: int | None) -> None:
        self.tokenizer, self.pad = tokenizer, pad

    def tokens(self, texts: list[str]) -> Tensor:
        """Of b texts, `(b, L)` int64."""
        if not texts:  # not every tokenizer takes nothing
            return torch.empty(0, 1, dtype=torch.int64)
        tokens = self.tokenizer(texts)  # (b, L)
        if self.pad is not None:
            longest = int((tokens != self.pad).sum(dim=1).max())
            tokens = tokens[:, : max(1, longest)].contiguous()
        return tokens

    def to_model(self, prepared: Prepared, device: torch.device) -> Tensor:
        return _move(prepared.tensor, device)


class Tokens(Tokenizer):
    """Tokens of a side of texts.

    Args:
        texts: the side.
        tokenizer, pad: as of `Tokenizer`.
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
    """One random view of each image, as CLIP draws it: a crop of nearly everything.

    Args:
        spec: of the towers.
        views: resolved.
    """

    def __init__(self, spec: PairSpec, views: Augmentation) -> None:
        self.spec, self.views = spec, views

    def read(self, image: Callable[[int], Image.Image], draws: np.ndarray) -> Prepared:
        """The views that b images have by these draws `(b, DRAWS)`; `image` as of `two_crops`."""

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
    """Such views of a side of images.

    Args:
        source: the side.
        spec, views: as of `DrawnViews`.
        seed: of the run.
    """

    def __init__(self, source: ImageSource, spec: PairSpec, views: Augmentation, seed: int) -> None:
        super().__init__(spec, views)
        self.source, self.seed = source, seed

    def prepare(self, rows: np.ndarray, epoch: int) -> Prepared:
        draws = uniforms(self.seed, epoch, self.source.ids[rows], 0, DRAWS)
        return self.read(lambda i: self.source.image(int(rows[i])), draws)


class CenterViews:
    """The one undistorted view of each image.

    Args:
        spec: of the towers.
    """

    def __init__(self, spec: PairSpec) -> None:
        self.spec = spec

    def read(self, image: Callable[[int], Image.Image], draws: np.ndarray) -> Prepared:
        """As of `DrawnViews`, whatever the draws."""
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
    """Such views of a side of images.

    Args:
        source: the side.
        spec: of the towers.
    """

    def __init__(self, source: ImageSource, spec: PairSpec) -> None:
        super().__init__(spec)
        self.source = source

    def prepare(self, rows: np.ndarray, epoch: int) -> Prepared:
        return self.read(lambda i: self.source.image(int(rows[i])), rows)


class Encoded:
    """What a frozen body makes of inputs, each time they come: for data too long to keep it.

    Args:
        inputs: of the body.
        body: where they go to the device; not part of what is trained.
        autocast: to the precision of the run.
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
    """Features of a frozen tower, computed before.

    Args:
        features: `(n, w)` float32, in memory or mapped; a row of NaN could not be read.
        names: of the rows.
    """

    def __init__(self, features: np.ndarray, names: Sequence[str]) -> None:
        self.features, self.names = features, names

    def prepare(self, rows: np.ndarray, epoch: int) -> Prepared:
        found = np.asarray(self.features[rows])
        readable = ~np.isnan(found[:, 0])
        unreadable = [(self.names[row], "could not be read") for row in rows[~readable]]
        return Prepared(torch.from_numpy(found[readable]), None, readable, unreadable)

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
    # Elsewhere than on CUDA a copy may be read before it has arrived.
    return tensor.to(device, non_blocking=device.type == "cuda")
