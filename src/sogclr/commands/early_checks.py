"""Check arguments before anything heavy is imported and before the data is read."""

import os
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..common.environment import processes
from ..common.errors import UserError, flag, shorten
from ..planning.callback import Callback

__all__ = [
    "picture_file",
    "require_columns_of_pairs",
    "require_data",
    "require_dry_run",
    "require_encoder",
    "require_hooks",
    "require_model",
    "require_other_folder",
    "require_shardable",
    "require_table_file",
    "require_unused",
    "require_writable",
    "unwrap_encoder",
]

NOT_PATHS = ("://", "{", "hf:")  # a URL, a pattern of shards, a data set on the hub


def require_data(data: Any, argument: str = "data") -> None:
    """Refuse the path of a file or folder that does not exist.

    Args:
        data: The argument. Only the path of a file or folder is checked.
        argument: Name of the argument for the message, such as "data" or "val".

    Raises:
        UserError: The path does not exist.
    """
    if not isinstance(data, str | os.PathLike) or data == "digits":
        return
    path = os.fspath(data)
    name = argument if argument == "data" else flag(argument)
    if not path:
        raise UserError(f"{name}: the path is empty; . is the current folder")
    if not os.path.exists(path) and not any(mark in path for mark in NOT_PATHS):
        raise UserError(f"{name}: {path} does not exist; correct the path")


def require_dry_run(arguments: Any) -> None:
    """Refuse what `--dry-run` cannot forecast, and a folder that training could not write.

    Args:
        arguments: All arguments of `pretrain` or `align`.

    Raises:
        UserError: The run is sharded, or its folder cannot be made.
    """
    if arguments.shard_model:
        raise UserError("--dry-run: does not forecast --shard-model; leave one of them out")
    folder = Path(arguments.out).absolute()
    there = next(path for path in (folder, *folder.parents) if path.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise UserError(f"--out: cannot write to {folder}; {there} is no folder that you may write")


def unwrap_encoder(encoder: Any) -> Any:
    """Return the module that torch.compile or DataParallel wraps; leave names and None."""
    if encoder is None or isinstance(encoder, str):
        return encoder
    from ..models.wrapped import unwrap

    return unwrap(encoder)


def require_encoder(encoder: Any, option: str) -> None:
    """Refuse a name of an encoder that timm does not know.

    Args:
        encoder: The argument. Only a name of timm's is checked.
        option: Name of the argument for the message, such as "encoder".

    Raises:
        UserError: The name is unknown; the message lists the nearest names.
    """
    if not isinstance(encoder, str) or encoder in ("auto", "small"):
        return
    if not encoder.startswith("custom:"):
        from ..models.encoders import require_known

        require_known(encoder, option)


def require_model(model: Any, tag: str | None) -> None:
    """Refuse a name of an open_clip model, or a tag of its weights, that does not exist.

    Args:
        model: Name, folder or file of the model; None is not checked.
        tag: Tag or file of its weights, or None.

    Raises:
        UserError: The name or the tag is unknown, or open_clip is not installed.
    """
    if model is not None:
        from ..models.build_towers import require_open_clip
        from ..models.open_clip_towers import require_known_model

        require_open_clip()
        require_known_model(model, tag)


def require_hooks(trackers: Sequence[str] | None, callbacks: Any) -> None:
    """Refuse a tracker that is not installed, and callbacks that are none.

    Args:
        trackers: Names of trackers; None if none were given.
        callbacks: The argument.

    Raises:
        UserError: The message names the extra to install, or the class to subclass.
    """
    for name in trackers or ():
        spec = find_spec(name)
        if spec is None or spec.origin is None:  # A folder of this name is no library.
            raise UserError(f"--logger: {name} is not installed; pip install 'sogclr[{name}]'")
    if not isinstance(callbacks, list | tuple):
        raise UserError(f"callbacks: give a list of callbacks, got {type(callbacks).__name__}")
    for each in callbacks:
        if not isinstance(each, Callback):
            raise UserError(
                f"callbacks: {shorten(repr(each))} is no object of a subclass of sogclr.Callback"
            )


def require_other_folder(data: Any, out: str | os.PathLike) -> None:
    """Refuse to write a run into the folder of its images, which would then be read as a run.

    Args:
        data: The argument `data`. Only the path of a folder is checked.
        out: The folder of the run.

    Raises:
        UserError: `out` is the folder of the data.
    """
    is_folder = isinstance(data, str | os.PathLike) and os.path.isdir(data)
    if is_folder and os.path.realpath(data) == os.path.realpath(out):
        raise UserError(f"--out: {out} is the folder of the data; give another folder")


def require_shardable(method: str) -> None:
    """Check that weights can be sharded.

    Raises:
        UserError: there is one process, or the method has a second encoder.
    """
    if processes() == 1:
        raise UserError(
            "--shard-model: there is one process, so weights cannot be divided; "
            "start several with torchrun, or leave it out"
        )
    if method == "moco":
        raise UserError(
            "--shard-model: moco's second encoder is not sharded; leave it out, or take another "
            "--method"
        )


def require_unused(options: dict[str, Any], reason: str) -> None:
    """Refuse options that would have no effect.

    Args:
        options: The values of options by their names; None if they were not given.
        reason: Why they have no effect, for the message.

    Raises:
        UserError: One was given.
    """
    for name, value in options.items():
        if value is not None:
            raise UserError(f"{flag(name)}: has no effect, since {reason}; leave it out")


def require_columns_of_pairs(columns: Any, data: Any, trained_on_pairs: bool) -> None:
    """Refuse the names of columns for data that are no pairs.

    Args:
        columns: The names; None if they were not given.
        data: The data; shards are listed to see what they hold.
        trained_on_pairs: Whether the run was trained on pairs.

    Raises:
        UserError: They were given and have no effect.
    """
    if columns is None:
        return
    from ..data.open_pairs import are_pairs

    if not (trained_on_pairs and are_pairs(data)):
        images = "these data are images"
        reason = images if trained_on_pairs else "the run was trained on images alone"
        require_unused({"columns": columns}, reason)


def require_writable(target: Path) -> None:
    """Refuse a file that cannot be written, before hours of work.

    Raises:
        UserError: Its folder does not exist or cannot be written to, or it is a folder itself.
    """
    if not target.parent.is_dir() or not os.access(target.parent, os.W_OK):
        raise UserError(f"--out: the folder {target.parent} does not exist or cannot be written to")
    if target.is_dir():
        raise UserError(f"--out: {target} is a folder; name a file")


def require_table_file(target: Path, other: str) -> None:
    """Refuse a file that is not Parquet or of another suffix, or that cannot be written.

    Args:
        target: The file.
        other: The other suffix, such as ".csv".

    Raises:
        UserError: Another suffix, pyarrow is missing, or `require_writable` refuses the file.
    """
    if target.suffix not in (other, ".parquet"):
        raise UserError(f"--out: {target} must end in {other} or .parquet")
    if target.suffix == ".parquet":
        try:
            import pyarrow  # noqa: F401 (is it installed?)
        except ImportError:
            raise UserError(
                f"--out: .parquet needs pyarrow: pip install 'sogclr[parquet]'; or use {other}"
            ) from None
    require_writable(target)


def picture_file(out: Path, default: str) -> Path:
    """Choose the PNG file to write.

    Args:
        out: A file, or an existing folder.
        default: Name of the file in a folder.

    Raises:
        UserError: The file is not a PNG file, or its folder does not exist.
    """
    target = out / default if out.is_dir() else out
    target = target if target.suffix else target.with_suffix(".png")
    if target.suffix != ".png":
        raise UserError(f"--out: a picture is written as .png, not as {target.suffix}")
    if not target.parent.is_dir():
        raise UserError(f"--out: there is no folder {target.parent}; make it first")
    return target
