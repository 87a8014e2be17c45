"""`sogclr.push`: put the trained model of a run on the Hugging Face hub."""

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from ..common.console import say
from ..common.errors import UserError, one_line
from ..common.options import ExportFormat
from ..evaluation.pages.record import RunRecord
from ..models.exports.formats import require_installed, why_not
from ..models.image_encoder import ImageEncoder
from ..models.pair_encoder import PairEncoder
from ..runs.download import require_repository_name
from ..runs.folder import Run
from ..runs.load import load
from ..runs.published import require_nothing_private, write_public_files
from .export import WRITERS, gather_examples, list_files, require_no_classifier
from .model_card import render_card

__all__ = ["push"]

CARD = "README.md"
LIBRARY: dict[ExportFormat, str] = {
    "timm": "timm",
    "openclip": "open_clip",
    "sentence-transformers": "sentence-transformers",
}


def push(
    run: str | Path,
    repository: str,
    data: Any,
    *,
    public: bool,
    log_u: bool,
    folder: str | Path | None,
    columns: str | Sequence[str] | None,
    module: nn.Module | None,
) -> str:
    """See `sogclr.push`."""
    require_repository_name(repository)
    require_no_classifier(run)
    record = RunRecord.read(Run(run))
    with _new_folder(folder) as target:
        _write_repository(record, repository, data, target, columns, module, with_log_u=log_u)
        require_nothing_private(target, _private_words(record))
        if folder is not None:
            say(f"{target} holds what would be pushed to {repository}:")
            list_files(target)
            return str(target)
        seen = "everyone can see it" if public else "private; --public shows it to everyone"
        say(f"to {repository} ({seen}; one that exists stays as visible as it is):")
        list_files(target)
        return _upload(target, repository, public=public)


@contextmanager
def _new_folder(folder: str | Path | None) -> Iterator[Path]:
    """Make the folder that a user names, or a temporary one."""
    if folder is None:
        with tempfile.TemporaryDirectory(prefix="sogclr-push-") as made:
            yield Path(made)
        return
    target = Path(folder)
    try:
        target.mkdir(parents=True)
    except FileExistsError:
        raise UserError(f"--folder: {target} exists already; name a new one") from None
    except OSError as error:
        raise UserError(f"--folder: cannot make {target} ({error.strerror or error})") from error
    try:
        yield target
    except BaseException:
        shutil.rmtree(target, ignore_errors=True)  # what is refused is not left half-written
        raise


def _write_repository(
    record: RunRecord,
    repository: str,
    data: Any,
    target: Path,
    columns: str | Sequence[str] | None,
    module: nn.Module | None,
    *,
    with_log_u: bool,
) -> None:
    """Write the files of the repository: the model, what other libraries load, the card."""
    write_public_files(record.run, target, with_log_u=with_log_u)
    # Load the published files, so that they are known to suffice.
    model = load(target, module)
    written, missing = list[ExportFormat](), dict[str, str]()
    is_own = model.spec.name == "custom" if isinstance(model, ImageEncoder) else model.spec.custom
    for name in LIBRARY:
        reason = _why_missing(model, name, written)
        if reason is not None:
            missing[LIBRARY[name]] = reason
            continue
        examples = gather_examples(model, record.run, data, columns)
        # open_clip looks in the repository for the configuration of a text tower.
        more = {"hub_name": repository} if name == "openclip" else {}
        WRITERS[name](model, target, examples, **more)
        written.append(name)
    card = render_card(record, None if is_own else model, repository, written, missing)
    (target / CARD).write_text(card, encoding="utf-8")


def _why_missing(
    model: ImageEncoder | PairEncoder, name: ExportFormat, written: list[ExportFormat]
) -> str | None:
    """Say why a library does not load the repository; None if it shall."""
    if (reason := why_not(model, name)) is not None:
        return reason
    if written:  # each wants the files in the first folder to be its own
        return f"this repository is one of {LIBRARY[written[0]]}; sogclr export writes a folder"
    try:
        require_installed(name)
    except UserError:
        say(f"left out: files for {LIBRARY[name]}, which is not installed")
        return "it was not installed where this was pushed"
    return None


def _private_words(record: RunRecord) -> list[str]:
    folder = record.run.folder.resolve()
    words = [str(Path.home()), str(Path.cwd()), str(folder), tempfile.gettempdir()]
    return [word for word in words if word.strip("/\\")]


def _upload(folder: Path, repository: str, *, public: bool) -> str:
    """Push the files in one commit; a card that is there stays, as its owner may have edited it.

    Returns:
        The address of the repository.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import LocalTokenNotFoundError, OfflineModeIsEnabled

    api = HfApi()
    try:
        made = api.create_repo(repository, private=not public, exist_ok=True)
        has_card = api.file_exists(repository, CARD)
        if has_card:
            say(f"{CARD} of {repository} stays as it is; --folder writes the new one to look at")
        api.upload_folder(
            repo_id=repository,
            folder_path=folder,
            commit_message="Add a model of sogclr",
            ignore_patterns=[CARD] if has_card else None,
        )
    except OfflineModeIsEnabled as error:
        raise UserError("push: HF_HUB_OFFLINE is set, which forbids all network") from error
    except Exception as error:  # of the hub, and of whichever library speaks HTTP
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status in (401, 403) or isinstance(error, LocalTokenNotFoundError):
            raise UserError(
                f"push: the hub does not let you write to {repository}; log in with a token that "
                "may write: hf auth login"
            ) from error
        reason = one_line(error) or type(error).__name__
        raise UserError(f"push: {repository} could not be pushed ({reason}); try again") from error
    say(f"pushed to {made}")
    return str(made)
