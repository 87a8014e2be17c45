"""Read and write the folder of a run. Files are written atomically, and no code in them is run.

settings.json         the settings that were given, and those that were derived
checkpoint.pt         everything to resume: weights, optimizer, table, random state, sample ids
encoder.safetensors   the trained encoder, its weights named as in timm
initial.safetensors   the encoder before training, for comparison
encoder.json          how to build the encoder, and which input it expects
metrics.jsonl, tb/    the training curves
views.png             some augmented views that the encoder was trained on
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
from safetensors.torch import save_file
from torch import Tensor

from ..common.errors import UserError
from ..models.encoders import EncoderSpec

__all__ = ["Run", "atomically", "is_pair_run", "pretty"]


class Run:
    """The folder of a run and the paths of its files.

    Args:
        folder: the path of the folder; need not exist yet.
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
        """Tell whether the folder holds a run, which has settings."""
        return self.settings.is_file()

    def create(self) -> None:
        """Create the folder.

        Raises:
            UserError: a file of this name exists, or the folder cannot be written to.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            probe = self.folder / ".writable"
            probe.write_bytes(b"")
            probe.unlink()
        except OSError as error:
            raise UserError(f"--out: cannot write to {self.folder} ({error.strerror})") from error

    def write_settings(self, settings: dict[str, Any]) -> None:
        """Write the settings: `asked`, as they were given, and `resolved`, with derived values."""
        atomically(self.settings, lambda path: path.write_text(pretty(settings)))

    def read_settings(self) -> dict[str, Any]:
        """Read what `write_settings` wrote.

        Raises:
            UserError: the folder is not a run.
        """
        try:
            return json.loads(self.settings.read_text())
        except FileNotFoundError:
            what = "is not a run of sogclr" if self.folder.exists() else "does not exist"
            raise UserError(
                f"run: {self.folder} {what}; give the folder of a run, named by --out"
            ) from None
        except ValueError as error:
            raise UserError(f"run: {self.settings} is damaged ({error})") from error

    def write_encoder(
        self, weights: dict[str, Tensor], spec: EncoderSpec, *, initial: bool = False
    ) -> None:
        """Write an encoder and its description.

        Args:
            weights: the encoder's state_dict.
            spec: the encoder's description.
            initial: whether this is the encoder before training.

        Raises:
            UserError: the disk is full or fails.
        """
        state = {key: value.detach().cpu().contiguous() for key, value in weights.items()}
        target = self.initial if initial else self.encoder
        atomically(target, lambda path: save_file(state, path))
        atomically(self.encoder_spec, lambda path: path.write_text(pretty(spec.as_dict())))

    def write_checkpoint(self, state: dict[str, Any]) -> None:
        """Write a checkpoint.

        Args:
            state: tensors and plain data alone, so that reading the file cannot run code.

        Raises:
            UserError: the disk is full or fails; the previous checkpoint stays intact.
        """
        atomically(self.checkpoint, lambda path: torch.save(state, path))

    def read_checkpoint(self, *, mapped: bool = False) -> dict[str, Any]:
        """Read what `write_checkpoint` wrote, with tensors on the CPU.

        Args:
            mapped: whether tensors stay in the file, mapped into memory, until they are used.

        Raises:
            UserError: the run has no checkpoint, or the file cannot be read.
        """
        try:
            return torch.load(self.checkpoint, map_location="cpu", weights_only=True, mmap=mapped)
        except FileNotFoundError:
            raise UserError(f"run: {self.folder} has no checkpoint yet") from None
        except Exception as error:
            raise UserError(f"run: {self.checkpoint} cannot be read ({error})") from error

    def require_space(self, needed: int) -> None:
        """Raise UserError unless `needed` bytes are free on the disk of the folder."""
        free = shutil.disk_usage(self.folder).free
        if free < needed:
            raise UserError(
                f"--out: {free / 1e6:,.0f} MB are free at {self.folder}, but the checkpoints of "
                f"this run need {needed / 1e6:,.0f} MB; free some space or choose another --out"
            )


def is_pair_run(run: str | Path) -> bool:
    """Tell whether a folder is a run of `sogclr.align` rather than `sogclr.pretrain`.

    Raises:
        UserError: the folder is not a run.
    """
    return Run(run).read_settings().get("kind") == "pairs"


def pretty(data: dict[str, Any]) -> str:
    """Format data as indented JSON."""
    return json.dumps(data, indent=2) + "\n"


def atomically(target: Path, write: Callable[[Path], object]) -> None:
    """Write a temporary file, flush it to disk and rename it, so no file is ever half-written.

    Args:
        target: the path of the file.
        write: writes the content to the path that it is given.

    Raises:
        UserError: the disk is full or fails; a previous file stays intact.
    """
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        write(temporary)
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        temporary.replace(target)
    # torch and safetensors raise their own errors when the disk fails.
    except (OSError, RuntimeError, SafetensorError) as error:
        with suppress(OSError):
            temporary.unlink()
        kept = f"; the last {target.name} is intact" if target.exists() else ""
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())[:200]
        raise UserError(
            f"--out: could not write {target} ({reason}){kept}; "
            "make room on the disk and go on with --resume"
        ) from error
