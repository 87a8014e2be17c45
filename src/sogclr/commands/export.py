"""`sogclr.export`: write a trained model in a format of another program."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import nn

from ..common.console import say
from ..common.errors import UserError
from ..common.options import ExportFormat
from ..data.decode import UnreadableImageError
from ..data.image_source import ImageSource
from ..data.pair_source import PairSource
from ..data.texts import Texts, UnreadableTextError
from ..evaluation.pages.compose import open_data
from ..evaluation.pages.record import RunRecord
from ..models.exports.compare import Examples
from ..models.exports.formats import require_exportable, require_installed
from ..models.exports.open_clip_folder import write_open_clip
from ..models.exports.sentence_folder import write_sentence_transformer
from ..models.exports.timm_folder import write_timm
from ..models.exports.traced import write_onnx, write_torchscript
from ..models.image_encoder import ImageEncoder
from ..models.pair_encoder import PairEncoder
from ..runs.classifiers import is_classifier
from ..runs.folder import Run
from ..runs.load import load

__all__ = ["WRITERS", "export", "gather_examples", "list_files", "require_no_classifier"]

COMPARED = 8  # samples of each side on which an export is compared
MADE_UP_TEXTS = ("a dog runs in the snow", "two children on a swing", "a red car", "the sea")

WRITERS: dict[ExportFormat, Callable[..., float]] = {
    "onnx": write_onnx,
    "torchscript": write_torchscript,
    "openclip": write_open_clip,
    "sentence-transformers": write_sentence_transformer,
    "timm": write_timm,
}


def export(
    run: str | Path,
    data: Any,
    *,
    format: ExportFormat,
    out: str | Path | None,
    columns: str | Sequence[str] | None,
    module: nn.Module | None,
) -> Path:
    """See `sogclr.export`."""
    require_installed(format)
    target = Path(run) / "exports" / format if out is None else Path(out)
    if target.exists():
        raise UserError(f"--out: {target} exists already; remove it, or name another folder")
    require_no_classifier(run)
    model = load(run, module)
    require_exportable(model, format)
    examples = gather_examples(model, Run(run), data, columns)
    try:
        target.mkdir(parents=True)
    except OSError as error:
        raise UserError(f"--out: cannot make {target} ({error.strerror or error})") from error
    try:
        difference = WRITERS[format](model, target, examples)
    except BaseException:
        shutil.rmtree(target, ignore_errors=True)  # nothing half-written, nothing wrong
        raise
    say(
        f"compared with the run on {examples.about}: the vectors differ by at most "
        f"{difference:.0e} of the largest value"
    )
    list_files(target)
    say(f"exported to {target}")
    return target


def list_files(folder: Path) -> None:
    """Print the files of a folder with their sizes."""
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        say(f"  {path.relative_to(folder).as_posix()} ({path.stat().st_size / 1e6:,.2f} MB)")


def require_no_classifier(run: str | Path) -> None:
    """Refuse a classifier, whose head no format has yet.

    Raises:
        UserError: the run is one of `sogclr.finetune`.
    """
    if is_classifier(run):
        raise UserError(
            f"run: {run} is a classifier of sogclr finetune, and its head can be neither exported "
            "nor pushed yet; give the run that it started from"
        )


def gather_examples(
    model: ImageEncoder | PairEncoder,
    run: Run,
    data: Any,
    columns: str | Sequence[str] | None,
) -> Examples:
    """Gather some samples on which exports are compared, and encode them by the model.

    Args:
        model: the model of the run.
        run: the run.
        data: images or pairs; None for those that the run was trained on. If these are not here,
            samples are made up, and the description says so.
        columns: names of the columns of a table, or None.

    Raises:
        UserError: the data that was given cannot be opened.
    """
    shown = open_data(RunRecord.read(run), data, columns)
    samples: dict[str, list[Any]] = {"image": [], "text": []}
    for side in _sides(shown.source):
        samples["text" if isinstance(side, Texts) else "image"] += _read_some(side)
    kinds = set(model.spec.kinds) if isinstance(model, PairEncoder) else {"image"}
    about, made_up = [], []
    for kind in sorted(kinds):
        if len(samples[kind]) < 2:
            made_up.append(f"{kind}s")
            samples[kind] = _make_up(kind, model.spec.image_size)
        about.append(f"{len(samples[kind])} {'made-up ' * (f'{kind}s' in made_up)}{kind}s")
    if made_up:
        why = shown.about if shown.source is None else f"{shown.name} has no two of them."
        say(f"{' and '.join(made_up)} to compare on are made up. {why}")
    images, texts = (samples[kind] if kind in kinds else [] for kind in ("image", "text"))
    return Examples.encode(model, images, texts, " and ".join(about))


def _sides(source: ImageSource | PairSource | None) -> list[ImageSource | Texts]:
    if source is None:
        return []
    return [source.a, source.b] if isinstance(source, PairSource) else [source]


def _read_some(side: ImageSource | Texts) -> list[Any]:
    """Read some readable samples from all parts of a side."""
    found = list[Any]()
    for row in np.linspace(0, len(side) - 1, min(len(side), 4 * COMPARED)).astype(int).tolist():
        try:
            found.append(side.texts[row] if isinstance(side, Texts) else side.image(row))
        except (UnreadableImageError, UnreadableTextError):
            continue
        if len(found) == COMPARED:
            break
    return found


def _make_up(kind: str, size: int) -> list[Any]:
    """Make images of smooth random colours, or texts, for want of real ones."""
    if kind == "text":
        return list(MADE_UP_TEXTS)
    small = np.random.default_rng(0).integers(0, 256, (COMPARED, 6, 8, 3), dtype=np.uint8)
    shape = (round(1.5 * size) + 1, size + 1)
    return [Image.fromarray(each).resize(shape, Image.Resampling.BICUBIC) for each in small]
