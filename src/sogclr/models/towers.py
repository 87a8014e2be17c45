"""Towers of open_clip, each split into a body and a head that ends in the joint space.

Thanks to the split a tower can be frozen: the features of its body are computed once, and only
the head is trained. Body and head together equal open_clip's tower.
"""

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..common.errors import UserError
from ..common.stored_fields import build_from_json
from .encoders import require_inputs
from .tower_keys import require_text, require_vision

__all__ = [
    "PairModel",
    "PairSpec",
    "Tower",
    "regularize",
    "weights_digest",
]

KINDS = (("image", "text"), ("text", "text"))  # of side a and side b


@dataclass(frozen=True)
class PairSpec:
    """A description from which towers and their inputs can be made; stored with the weights.

    Attributes:
        kinds: kinds of side a and side b, "image" or "text". Two sides of texts share one tower.
        width: width of the joint space.
        vision: open_clip's `vision_cfg`, or None without an image side.
        text: open_clip's `text_cfg`.
        quick_gelu: open_clip's setting, true for some published weights.
        image_size: side of the image tower's input in pixels.
        mean, std: of each channel, for inputs in [0, 1].
        custom: whether the image tower is a module of the user's own.
        frozen: kinds of the towers whose body is not trained.
    """

    kinds: tuple[str, str]
    width: int
    vision: dict[str, Any] | None
    text: dict[str, Any]
    quick_gelu: bool = False
    image_size: int = 224
    mean: tuple[float, ...] = (0.48145466, 0.4578275, 0.40821073)
    std: tuple[float, ...] = (0.26862954, 0.26130258, 0.27577711)
    custom: bool = False
    frozen: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, stored: Any, name: str = "description") -> "PairSpec":
        """Make a description from the result of `as_dict`, read back from JSON.

        Args:
            stored: the description, which may come from a stranger.
            name: the name of the description, for messages.

        Raises:
            UserError: the description is not one of this version, or has an option of open_clip
                that is not on the list of those that may be stored.
        """
        spec = build_from_json(cls, stored, name)
        kinds = set(spec.kinds)
        if spec.kinds not in KINDS or not set(spec.frozen) <= kinds:
            raise UserError(f"{name}: kinds must be image and text, or text twice; frozen of these")
        if "image" in kinds:
            require_vision(spec.vision, f"{name}: vision", is_custom=spec.custom)
        require_text(spec.text, f"{name}: text")
        require_inputs((spec.image_size, spec.width), spec.mean, spec.std, name)
        return spec

    @property
    def needs_folder(self) -> bool:
        """Whether the text tower or the tokenizer is one of Hugging Face, stored in a folder."""
        return not {"hf_model_name", "hf_tokenizer_name"}.isdisjoint(self.text)


class Tower(nn.Module):
    """An open_clip tower, split into body and head.

    Args:
        body: open_clip's tower (`TimmModel`, `HFTextEncoder`, `VisionTransformer`,
            `TextTransformer`, ...); its projection moves into `head`.
    """

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.head: nn.Module = nn.Identity()
        self._projection = next(
            (n for n in ("head", "proj", "text_projection") if _has(body, n)), ""
        )
        if self._projection:
            taken = getattr(body, self._projection)
            bare = isinstance(taken, nn.Parameter)
            self.head = _Matrix(taken) if bare else taken
            # open_clip's classes with a bare projection use None for no projection.
            left = None if bare or self._projection == "text_projection" else nn.Identity()
            setattr(body, self._projection, left)
        self.body = body

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Map inputs to the body's features `(B, w)` and their projections `(B, d)`."""
        features = self.body(inputs)
        return features, self.head(features)

    def open_clip_state(self) -> dict[str, Tensor]:
        """Return the weights under open_clip's names."""
        state: dict[str, Tensor] = dict(self.body.state_dict())
        for name, value in self.head.state_dict().items():
            state[self._projection if name == "matrix" else f"{self._projection}.{name}"] = value
        return state

    def load_open_clip_state(self, state: dict[str, Tensor]) -> None:
        """Load weights that have open_clip's names."""
        prefix = self._projection + "."
        if self._projection in state:
            head = {"matrix": state[self._projection]}
        else:
            head = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
        self.head.load_state_dict(head)
        body = {
            k: v for k, v in state.items() if k != self._projection and not k.startswith(prefix)
        }
        self.body.load_state_dict(body)


class PairModel(nn.Module):
    """Two towers, or one for both sides if both are texts.

    Args:
        towers: the towers by kind, "image" and "text".
        kinds: kinds of side a and side b.
        frozen: kinds whose body is not trained. Inputs of these sides are features of the body.
    """

    def __init__(
        self, towers: dict[str, Tower], kinds: tuple[str, str], frozen: tuple[str, ...] = ()
    ) -> None:
        super().__init__()
        self.kinds, self.frozen = kinds, frozen
        trained: dict[str, nn.Module] = {
            kind: tower.head if kind in frozen else tower for kind, tower in towers.items()
        }
        self.trained = nn.ModuleDict(trained)

    def forward(self, a: Tensor, b: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Return features `(B, w)` and projections `(B, d)` of both sides.

        Args:
            a: inputs of side a: images `(B, 3, S, S)`, tokens `(B, L)`, or features `(B, w)` of a
                frozen body.
            b: inputs of side b, likewise.
        """
        return [self.side(kind, x) for kind, x in zip(self.kinds, (a, b), strict=True)]

    def side(self, kind: str, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return features `(B, w)` and projections `(B, d)` of inputs of one kind."""
        module = self.trained[kind]
        return (inputs, module(inputs)) if kind in self.frozen else module(inputs)


class _Matrix(nn.Module):
    """A projection that open_clip keeps as a bare parameter `(w, d)`."""

    def __init__(self, matrix: nn.Parameter) -> None:
        super().__init__()
        self.matrix = matrix

    def forward(self, features: Tensor) -> Tensor:
        return features @ self.matrix


def _has(body: nn.Module, name: str) -> bool:
    own = {**dict(body.named_children()), **dict(body.named_parameters(recurse=False))}
    return isinstance(own.get(name), nn.Module | nn.Parameter)


def regularize(head: nn.Module, dropout: float) -> int:
    """Add dropout after each activation of a head; the names of its weights stay the same.

    Returns:
        The number of activations.
    """
    places = 0
    for name, child in head.named_children():
        if isinstance(child, nn.Dropout):
            child.p = 0.0
        elif isinstance(child, nn.GELU):
            places += 1
            setattr(head, name, nn.Sequential(child, nn.Dropout(dropout)).train(head.training))
        else:
            places += regularize(child, dropout)
    return places


def weights_digest(module: nn.Module) -> bytes:
    """Hash the structure and the weights of a module."""
    from hashlib import blake2b

    digest = blake2b(repr(module).encode(), digest_size=16)
    for name, value in module.state_dict().items():
        digest.update(name.encode())
        flat = value.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b"")
    return digest.digest()
