"""Read and write the folder of a run. Files are written whole, and no code in them is run.

run.lock              exists while a process trains, and is locked by it
settings.json         the settings that were given, those that were derived, and the reasons
checkpoint.pt         everything to resume: weights, optimizer, table, random state, sample ids
encoder.safetensors   the trained encoder, its weights named as in timm
initial.safetensors   the encoder before training, for comparison
encoder.json          how to build the encoder, and which input it expects
head.safetensors      of a classifier, the head that maps features to classes
classes.json          of a classifier, the names of its classes
metrics.jsonl, tb/    the training curves
trackers.json         the ids of the run in other trackers, and what these have received
wandb/                the files of Weights & Biases, if it is one of them
evaluations.jsonl     the results of sogclr evaluate
views.png             some augmented views that the encoder was trained on
digests.json          digests of checkpoint and weights, by which damage is found
"""

import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..common.environment import rank
from ..common.errors import UserError, one_line
from ..common.system import hold_lock
from ..common.whole_files import remove_leftovers
from ..models.encoders import EncoderSpec
from ..models.wrapped import plain_state
from .kinds import NAMES, kind_of
from .stored import FORMAT, Digests, read_json, require_format, write_json

__all__ = ["Run", "is_pair_run"]


class Run:
    """The folder of a run and the paths of its files.

    Args:
        folder: the path of the folder, which need not exist yet.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.lock = self.folder / "run.lock"
        self.settings = self.folder / "settings.json"
        self.checkpoint = self.folder / "checkpoint.pt"
        self.encoder = self.folder / "encoder.safetensors"
        self.initial = self.folder / "initial.safetensors"
        self.encoder_spec = self.folder / "encoder.json"
        self.towers_spec = self.folder / "towers.json"
        self.trained = self.folder / "trained.safetensors"
        self.frozen = self.folder / "frozen.safetensors"
        self.head = self.folder / "head.safetensors"
        self.classes = self.folder / "classes.json"
        self.text = self.folder / "text"
        self.metrics = self.folder / "metrics.jsonl"
        self.curves = self.folder / "tb"
        self.trackers = self.folder / "trackers.json"
        self.wandb = self.folder / "wandb"
        self.views = self.folder / "views.png"
        self.evaluations = self.folder / "evaluations.jsonl"
        self.embeddings = self.folder / "embeddings"
        self.digests = Digests(self.folder / "digests.json")

    def exists(self) -> bool:
        """Tell whether the folder holds a run, which has settings."""
        return self.settings.is_file()

    @contextmanager
    def claim(self) -> Iterator[None]:
        """Create the folder if needed, and lock it within this context.

        The first process holds the lock for all processes of the run. Temporary files of killed
        runs are removed first. If this context created the folder and it stays empty, the folder
        is removed at the end.

        Raises:
            UserError: another process trains in the folder, or it cannot be written to.
        """
        if rank() > 0:
            yield
            return
        is_new = not self.folder.exists()
        try:
            with ExitStack() as stack:
                try:
                    self.folder.mkdir(parents=True, exist_ok=True)
                    held = stack.enter_context(hold_lock(self.lock))
                except OSError as error:
                    raise UserError(
                        f"--out: cannot write to {self.folder} ({error.strerror or error})"
                    ) from error
                if not held:
                    raise UserError(
                        f"--out: another process trains in {self.folder}; wait for its end, or "
                        "name another --out"
                    )
                self._require_no_links()
                names = {path.name for path in self._files()}
                remove_leftovers(self.folder, names.__contains__, ours=True)
                yield
        finally:
            if is_new:
                with suppress(OSError):  # not empty
                    self.folder.rmdir()

    def _files(self) -> list[Path]:
        """List the files that only training writes."""
        weights = [self.encoder, self.initial, self.trained, self.frozen, self.head]
        descriptions = [self.settings, self.encoder_spec, self.towers_spec, self.classes]
        measured = [self.digests.path, self.metrics, self.trackers, self.views]
        return [self.checkpoint, *weights, *descriptions, *measured]

    def _require_no_links(self) -> None:
        """Refuse folders that are links: a run must not delete or write files elsewhere."""
        for folder in (self.curves, self.wandb, self.text, self.embeddings):
            if folder.is_symlink():
                raise UserError(f"run: {folder} is a link; remove it, the run makes a folder")

    def write_settings(self, settings: dict[str, Any]) -> None:
        """Write the settings.

        Args:
            settings: `asked`, as they were given, `resolved`, with derived values, `reasons`, why
                these were chosen, and `data`, where the data was; of pairs also `freeze`.
        """
        write_json(self.settings, settings)

    def read_settings(self) -> dict[str, Any]:
        """Read what `write_settings` wrote.

        Raises:
            UserError: the folder is not a run, or its settings are damaged or of another version.
        """
        if not self.settings.exists():
            what = "is not a run of sogclr" if self.folder.exists() else "does not exist"
            raise UserError(f"run: {self.folder} {what}; give the folder of a run, named by --out")
        settings = read_json(self.settings)
        if kind_of(settings) not in [*NAMES]:  # a list in the file could not be looked up
            raise UserError(f"run: {self.settings} is damaged (its kind is unknown)")
        return settings

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
        self.write_weights(self.initial if initial else self.encoder, plain_state(weights))
        write_json(self.encoder_spec, spec.as_dict())

    def write_weights(self, target: Path, weights: dict[str, Tensor]) -> None:
        """Write weights to one of the files of the run.

        Raises:
            UserError: the disk is full or fails; a previous file stays intact.
        """
        # safetensors needs contiguous tensors that share no memory.
        state = {key: value.detach().cpu().contiguous().clone() for key, value in weights.items()}
        self.digests.write(target, lambda path: save_file(state, path))

    def read_weights(self, source: Path) -> dict[str, Tensor]:
        """Read what `write_weights` wrote.

        Raises:
            UserError: the file is missing or damaged.
        """
        self.digests.verify(source)
        try:
            return load_file(source)
        except (OSError, ValueError, SafetensorError) as error:
            raise UserError(f"run: {source} is damaged ({one_line(error)})") from error

    def write_checkpoint(self, state: dict[str, Any]) -> None:
        """Write a checkpoint.

        Args:
            state: tensors and plain data alone, so that reading the file cannot run code.

        Raises:
            UserError: the disk is full or fails; the previous checkpoint stays intact.
        """
        versioned = {"format": FORMAT, **state}
        self.digests.write(self.checkpoint, lambda path: torch.save(versioned, path))

    def read_checkpoint(self, *, mapped: bool = False) -> dict[str, Any]:
        """Read what `write_checkpoint` wrote, with tensors on the CPU.

        Args:
            mapped: whether tensors stay in the file, mapped into memory, until they are used.

        Raises:
            UserError: the run has no checkpoint, or the file cannot be read.
        """
        if not self.checkpoint.exists():
            raise UserError(f"run: {self.folder} has no checkpoint yet")
        self.digests.verify(self.checkpoint)
        try:
            state = torch.load(self.checkpoint, map_location="cpu", weights_only=True, mmap=mapped)
        except Exception as error:
            raise UserError(f"run: {self.checkpoint} cannot be read ({one_line(error)})") from error
        if not isinstance(state, dict):
            raise UserError(f"run: {self.checkpoint} is no checkpoint of sogclr")
        require_format(state, self.checkpoint)
        return state

    def require_space(self, needed: int) -> None:
        """Raise UserError unless `needed` bytes are free, counting this run's files as free."""
        own = sum(path.stat().st_size for path in self._files() if path.is_file())
        # A run that is not started has no folder yet.
        folder = next(p for p in (self.folder, *self.folder.absolute().parents) if p.is_dir())
        free = shutil.disk_usage(folder).free + own
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
    return kind_of(Run(run).read_settings()) == "pairs"
