"""The commands that give a trained model to other programs, as Python functions; see `api.py`."""

from ..common.options import ExportFormat
from .argument_types import Address, Columns, Folder, OtherData, OwnModule, Repository, Run, Written
from .early_checks import require_data

__all__ = ["export", "push"]


def export(
    run: Run,
    data: OtherData | None = None,
    *,
    format: ExportFormat,
    out: Folder | None = None,
    columns: Columns | None = None,
    encoder: OwnModule = None,
) -> Written:
    """Write the trained model in a format that other programs load without sogclr.

    onnx and torchscript take pixels in bytes, or tokens, in batches of any size; README.md beside
    the files has code that uses them. timm, openclip and sentence-transformers write a folder that
    the library of this name loads, with its preprocessing. Before the command ends, it loads what
    it wrote, and compares the vectors of real samples with those of the run, to 1e-4.

    Args:
        run: Folder of the run.
        data: Images or pairs to compare on. Default: what the run was trained on, if that is on
            this machine; else samples are made up.
        format: onnx, torchscript, openclip (runs of align with images), sentence-transformers (a
            text tower of Hugging Face) or timm (runs of pretrain).
        out: New folder to write. Default: exports/FORMAT in the folder of the run.
        columns: Names of the table's two columns, with a comma between them. From Python also a
            sequence. Default: those of the run, or guessed from the usual names.
        encoder: An nn.Module of the architecture that was trained, if the run trained your own.

    Returns:
        The folder.

    Raises:
        sogclr.UserError: An error that the user can correct; one line says how.
    """
    require_data(data)
    from .export import export as run_export

    return run_export(run, data, format=format, out=out, columns=columns, module=encoder)


def push(
    run: Run,
    repository: Repository,
    data: OtherData | None = None,
    *,
    public: bool = False,
    log_u: bool = False,
    folder: Folder | None = None,
    columns: Columns | None = None,
    encoder: OwnModule = None,
) -> Address:
    """Put the trained model on the Hugging Face hub, with a card of its data, plan and results.

    `sogclr.load("hf:owner/name")` loads it, and so does timm, open_clip or sentence-transformers if
    it has such a model. All files are listed before anything is sent. No path of this machine, no
    sample id and no checkpoint is among them. Log in first: hf auth login.

    Args:
        run: Folder of the run.
        repository: Name of the repository, owner/name. A new one is private.
        data: Images or pairs on which what other libraries load is compared. Default: what the run
            was trained on, if that is on this machine; else samples are made up.
        public: Make a new repository visible to everyone.
        log_u: Push log u of the training samples with their ids, too. Ids are hashes of names or
            contents: whoever has the data finds out which samples were trained on.
        folder: New folder to write the files to, to look at them; nothing is pushed then. Default:
            none, the files are pushed.
        columns: Names of the table's two columns, with a comma between them. From Python also a
            sequence. Default: those of the run, or guessed from the usual names.
        encoder: An nn.Module of the architecture that was trained, if the run trained your own.

    Returns:
        The address of the repository, or the folder.

    Raises:
        sogclr.UserError: An error that the user can correct; one line says how.
    """
    require_data(data)
    from .push import push as run_push

    return run_push(
        run,
        repository,
        data,
        public=public,
        log_u=log_u,
        folder=folder,
        columns=columns,
        module=encoder,
    )
