"""A run is a folder: settings, checkpoint, encoder, metrics. Written atomically, read safely.

settings.json         what was asked for and what was derived
checkpoint.pt         all it takes to go on: weights, optimizer, table, random state, ids
encoder.safetensors   the encoder alone, as `timm.create_model(...)` takes it
initial.safetensors   the encoder before training, for comparison
encoder.json          how to build the encoder and what it expects as input
metrics.jsonl, tb/    the curves
views.png             what the encoder was shown
"""

import json
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..common.errors import UserError
from ..models.encoders import EncoderSpec, rebuild_encoder

__all__ = ["Preprocess", "Run", "atomically", "is_of_pairs", "load", "load_encoder", "pretty"]


class Run:
    """The files of a run.

    Args:
        folder: where they are; need not exist yet.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.settings = self.folder / "settings.json"
        self.checkpoint = self.folder / "checkpoint.pt"
        self.encoder = self.folder / "encoder.safetensors"
        self.initial = self.folder / "initial.safetensors"
        self.encoder_spec = self.folder / "encoder.json"
        self.metrics = self.folder / "metrics.jsonl"
        self.curves = self.folder / "tb"
        self.views = self.folder / "views.png"

    def exists(self) -> bool:
        return self.settings.is_file()

    def create(self) -> None:
        """Make the folder.

        Raises:
            UserError: a file is in the way, or the place cannot be written to.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            probe = self.folder / ".writable"
            probe.write_bytes(b"")
            probe.unlink()
        except OSError as error:
            raise UserError(f"out: cannot write to {self.folder} ({error.strerror})") from error

    def write_settings(self, settings: dict[str, Any]) -> None:
        atomically(self.settings, lambda path: path.write_text(pretty(settings)))

    def read_settings(self) -> dict[str, Any]:
        """What `write_settings` wrote.

        Raises:
            UserError: the folder is not a run.
        """
        try:
            return json.loads(self.settings.read_text())
        except FileNotFoundError:
            what = "is not a run of sogclr" if self.folder.exists() else "does not exist"
            raise UserError(
                f"run: {self.folder} {what}; give the folder that pretrain wrote with --out"
            ) from None
        except ValueError as error:
            raise UserError(f"run: {self.settings} is damaged ({error})") from error

    def write_encoder(
        self, weights: dict[str, Tensor], spec: EncoderSpec, *, initial: bool = False
    ) -> None:
        """The encoder's weights, its state_dict, and description."""
        state = {key: value.detach().cpu().contiguous() for key, value in weights.items()}
        target = self.initial if initial else self.encoder
        atomically(target, lambda path: save_file(state, path))
        atomically(self.encoder_spec, lambda path: path.write_text(pretty(spec.as_dict())))

    def write_checkpoint(self, state: dict[str, Any]) -> None:
        """Tensors and plain data, so that reading needs no trust in the file.

        Raises:
            UserError: the disk is full or fails; the previous checkpoint is intact then.
        """
        atomically(self.checkpoint, lambda path: torch.save(state, path))

    def read_checkpoint(self, *, mapped: bool = False) -> dict[str, Any]:
        """What `write_checkpoint` wrote, on the CPU.

        Args:
            mapped: whether tensors stay in the file until they are looked at.

        Raises:
            UserError: there is none, or it cannot be read.
        """
        try:
            return torch.load(self.checkpoint, map_location="cpu", weights_only=True, mmap=mapped)
        except FileNotFoundError:
            raise UserError(f"run: {self.folder} has no checkpoint yet") from None
        except Exception as error:
            raise UserError(f"run: {self.checkpoint} cannot be read ({error})") from error

    def require_space(self, needed: int) -> None:
        """Raise UserError unless `needed` bytes are free where the run is."""
        free = shutil.disk_usage(self.folder).free
        if free < needed:
            raise UserError(
                f"out: {free / 1e6:,.0f} MB are free at {self.folder}, but the checkpoints of this "
                f"run need {needed / 1e6:,.0f} MB; free some space or choose another --out"
            )


class Preprocess:
    """A Pillow image to the encoder's input, `(3, S, S)` float32, as during evaluation."""

    def __init__(self, spec: EncoderSpec) -> None:
        self.spec = spec

    def __call__(self, image: Any) -> Tensor:
        from ..data.decode import to_rgb
        from ..data.views.crops import center_view
        from ..data.views.pipeline import standardize

        view = torch.from_numpy(center_view(to_rgb(image), self.spec.image_size))
        return standardize(view[None].float() / 255, self.spec.mean, self.spec.std)[0]

    def __repr__(self) -> str:
        return f"Preprocess({self.spec.image_size} px, mean={self.spec.mean}, std={self.spec.std})"


def is_of_pairs(run: str | Path) -> bool:
    """Whether a run is one of `sogclr.align`.

    Raises:
        UserError: it is not a run.
    """
    return Run(run).read_settings().get("kind") == "pairs"


def load(run: str | Path, encoder: nn.Module | None = None, *, initial: bool = False) -> Any:
    """The trained encoder of a run: a plain `nn.Module`, in eval mode, on the CPU.

    Of a run of `align` it is a `PairEncoder`: `encode_image`, `encode_text`, `to_open_clip`.
    Of a run of `pretrain` it maps `(B, 3, S, S)` float32 to `(B, width)`, and
    `model.preprocess` turns a Pillow image into such an input:
    `model(model.preprocess(image)[None])`.

    Args:
        run: the folder.
        encoder: a module of the architecture trained, where it was the user's own.
        initial: the encoder as it was before training instead.

    Raises:
        UserError: not a run, nothing saved in it yet, or an encoder that does not fit.
    """
    if is_of_pairs(run):
        from .towers import load_pairs

        return load_pairs(run, encoder)
    model, spec = load_encoder(run, encoder, initial=initial)
    # torch types attributes of a module as tensors or modules.
    model.preprocess = Preprocess(spec)  # type: ignore[assignment]
    return model


def load_encoder(
    run: str | Path, encoder: nn.Module | None = None, *, initial: bool = False
) -> tuple[nn.Module, EncoderSpec]:
    """As `load`, with the encoder's description beside it."""
    files = Run(run)
    files.read_settings()
    weights = files.initial if initial else files.encoder
    if not (weights.is_file() and files.encoder_spec.is_file()):
        raise UserError(f"run: {files.folder} has saved no encoder yet; go on with --resume")
    try:
        spec = EncoderSpec.from_dict(json.loads(files.encoder_spec.read_text()))
        state = load_file(weights)
    except (ValueError, KeyError, SafetensorError) as error:
        raise UserError(f"run: {files.folder} has a damaged encoder ({error})") from error
    if encoder is None:
        if spec.name == "custom":
            raise UserError(
                f"run: {files.folder} trained a module of your own; "
                "pass one of the same architecture: sogclr.load(run, encoder=module)"
            )
        encoder = rebuild_encoder(spec)
    try:
        encoder.load_state_dict(state)
    except RuntimeError as error:
        lines = str(error).split("\n\t")
        raise UserError(f"encoder: does not fit {weights}: {lines[-1].strip()}") from error
    return encoder.eval(), spec


def pretty(data: dict[str, Any]) -> str:
    """JSON that people read."""
    return json.dumps(data, indent=2) + "\n"


def atomically(target: Path, write: Callable[[Path], object]) -> None:
    """Write beside the target, flush to disk, then take its place: it is never half-written.

    Raises:
        UserError: the disk is full or fails.
    """
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        write(temporary)
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        temporary.replace(target)
    # torch and safetensors report a failing disk as errors of their own kinds.
    except (OSError, RuntimeError, SafetensorError) as error:
        with suppress(OSError):
            temporary.unlink()
        kept = f"; the last {target.name} is intact" if target.exists() else ""
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())[:200]
        raise UserError(
            f"out: could not write {target} ({reason}){kept}; "
            "make room on the disk and go on with --resume"
        ) from error
