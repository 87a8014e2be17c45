"""`sogclr.preview`: draw what the towers will receive, before training."""

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from torch import nn

from ..common.console import say, setting_line
from ..common.errors import UserError
from ..data.open_images import open_images, require_undamaged
from ..data.open_pairs import are_pairs, open_pairs, require_columns
from ..data.own_pictures import write_picture
from ..data.tar.urls import is_url
from ..models.build_towers import describe_inputs
from ..models.text_lengths import choose_texts_of_pairs, describe_cut
from ..planning.images import plan_run
from ..planning.pairs import frozen_kinds, plan_pairs
from ..planning.settings_images import ImageSettings
from ..planning.settings_pairs import PairSettings
from ..planning.settings_preview import FOR_IMAGES, FOR_PAIRS, PreviewArguments
from ..runs.stored import atomically
from ..training.pairs_picture import draw_pairs, load_first_pairs
from ..training.views_picture import write_views_picture
from .early_checks import picture_file, require_unused

__all__ = ["preview"]

SHOWN = ("image size", "views")  # settings that decide the picture
DEVICE = "cpu"  # of the plan; these settings do not depend on it
ADVICE = "make room on the disk, or name another --out"


def preview(arguments: PreviewArguments) -> Path:
    """See `sogclr.preview`."""
    target = picture_file(Path(arguments.out), "preview.png")
    data = arguments.data
    if is_url(data):
        raise UserError("data: a stream cannot be previewed; give one shard of it as a file")
    if are_pairs(data):
        _require_unused(arguments, FOR_IMAGES, "these data are pairs")
        _preview_pairs(arguments, target)
    else:
        _require_unused(arguments, FOR_PAIRS, "these data are images alone")
        _preview_images(arguments, target)
    say(f"picture: {target}")
    return target


def _require_unused(arguments: PreviewArguments, names: Sequence[str], reason: str) -> None:
    """Refuse options for the other kind of data."""
    usual = {f.name: f.default for f in fields(arguments)}
    given = {name: getattr(arguments, name) for name in names}
    require_unused({n: v for n, v in given.items() if v != usual[n]}, reason)


def _preview_images(arguments: PreviewArguments, target: Path) -> None:
    encoder: Any = arguments.encoder
    name = f"custom:{type(encoder).__name__}" if isinstance(encoder, nn.Module) else encoder
    request = arguments.settings(ImageSettings, encoder=name)
    source = open_images(arguments.data)
    require_undamaged(source.damaged, request.on_damaged)
    say(source.describe())
    plan = plan_run(request, source, DEVICE, None)
    _print_settings(plan.reasons)
    first = write_views_picture(source, plan, target, ADVICE)
    _print_unreadable(first.unreadable)
    if not first.names:
        raise UserError("data: none of the first images can be read; see above")


def _preview_pairs(arguments: PreviewArguments, target: Path) -> None:
    request = arguments.settings(PairSettings)
    require_columns(arguments.data, request.columns)
    source = open_pairs(arguments.data, request.columns)
    require_undamaged(source.damaged, request.on_damaged)
    say(source.describe())
    frozen = frozen_kinds(arguments.freeze, source.kinds)
    plan = plan_pairs(
        request,
        source,
        frozen=frozen,
        pretrained=request.starts_trained(),
        device=DEVICE,
        workers=None,
    )
    spec, tokenizer = describe_inputs(arguments, source.kinds, frozen, source.image_size)
    if "image" in spec.kinds:
        say(setting_line("image size", f"{spec.image_size} px", "what the image tower receives"))
    _print_settings(plan.reasons)
    _, cut = describe_cut(tokenizer, choose_texts_of_pairs(source))
    say(setting_line("context length", tokenizer.context_length, cut))
    first = load_first_pairs(source, plan, spec, tokenizer)
    _print_unreadable(first.unreadable)
    if not first.texts:
        raise UserError("data: none of the first pairs can be read; see above")
    sheet = draw_pairs(first, plan, spec, tokenizer.context_length)
    atomically(target, lambda path: write_picture(sheet, path), ADVICE)


def _print_settings(reasons: Sequence[tuple[str, str, str]]) -> None:
    """Print the settings that decide the picture, with the reasons."""
    for name, value, reason in reasons:
        if name in SHOWN:
            say(setting_line(name, value, reason))


def _print_unreadable(unreadable: Sequence[tuple[str, str]]) -> None:
    for name, reason in unreadable:
        say(f"skipped {name}: {reason}")
