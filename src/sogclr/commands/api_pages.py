"""The commands that show something to look at, as Python functions; see `api.py`."""

from dataclasses import replace

from ..common.options import REPORT_SAMPLES, Device
from ..planning.settings import MachineArguments
from ..planning.settings_preview import PreviewArguments
from .argument_types import (
    Columns,
    Curation,
    Data,
    File,
    Folder,
    Host,
    OtherData,
    OwnModule,
    Page,
    Picture,
    Run,
)
from .arguments import takes
from .early_checks import require_data, require_encoder, require_model, unwrap_encoder

__all__ = ["curate", "preview", "report", "serve"]


@takes(PreviewArguments)
def preview(arguments: PreviewArguments) -> Picture:
    """Draw what an encoder will receive, before it is trained.

    Of images: the first ones of a run, each beside two random views. Of pairs: views and texts as
    the towers receive them, with what is cut. `pretrain` and `align` with the same options train on
    these views; without options on their defaults.

    Returns:
        The file of the picture.

    Raises:
        sogclr.UserError: An error that the user can correct; one line says how.
    """
    encoder, tower = unwrap_encoder(arguments.encoder), unwrap_encoder(arguments.image_tower)
    arguments = replace(arguments, encoder=encoder, image_tower=tower)
    require_data(arguments.data)
    require_encoder(encoder, "encoder")
    require_encoder(tower, "image_tower")
    require_model(arguments.model, None)
    from .preview import preview as draw_preview

    return draw_preview(arguments)


def report(
    run: Run,
    data: OtherData | None = None,
    *,
    out: File | None = None,
    samples: int = REPORT_SAMPLES,
    columns: Columns | None = None,
    encoder: OwnModule = None,
    device: Device = "auto",
) -> Page:
    """Write a page that shows what a run has learned, and what is in its data, for a browser.

    The page is one HTML file that needs no network. It has the plan with its reasons, curves,
    augmented views, results, confusion of classes or hits and misses, nearest neighbours, a map of
    the embedding, crowded and lonely samples, near duplicates, suspected wrong labels, and the
    audit if there is one. What cannot be shown is left out, with the reason. `pretrain` and `align`
    write the page when they are done; it can be written while training goes on.

    Args:
        run: Folder of the run.
        data: Images or pairs to look at. Default: what the run was trained on, if that is on this
            machine.
        out: File of the page. Default: report.html in the folder of the run.
        samples: Largest number of samples to embed, drawn at random; of pairs a quarter as many
            images or first texts, with all their partners. A slow encoder embeds fewer, as many as
            it does in half a minute.
        columns: Names of the table's two columns, with a comma between them. From Python also a
            sequence. Default: guessed from the usual names.
        encoder: An nn.Module of the architecture that was trained, if the run trained your own.
        device: Device to embed the samples on. auto is cuda if there is one, else mps, else cpu.

    Returns:
        The file of the page, and which sections it shows.

    Raises:
        sogclr.UserError: An error that the user can correct; one line says how.
    """
    require_data(data)
    from .report import report as write_report

    return write_report(
        run, data, out=out, samples=samples, columns=columns, module=encoder, device=device
    )


def curate(
    run: Run,
    data: Data,
    *,
    out: File,
    keep: float | None = None,
    links: Folder | None = None,
    columns: Columns | None = None,
    encoder: OwnModule = None,
    device: Device = "auto",
    workers: int | None = None,
) -> Curation:
    """List what deserves a look in a data set: duplicates, wrong labels, outliers, wrong captions.

    A run looks at images or pairs, those that it was trained on or others. It lists near
    duplicates, labels that the vectors contradict, texts that do not fit their partner, outliers,
    and crowded samples by log u, each with a score, a reason and the path. Nothing is deleted.

    Args:
        run: Folder of the run.
        data: Images: a folder, shards, or `digits`. For a run of `align` also pairs: a table, or
            shards with captions.
        out: File to write, .csv or .parquet: one row for each finding.
        keep: Share of the samples to keep, between 0 and 1. Samples that others replace best are
            left out, so that rare ones stay. What is kept is listed in a second file, which ends in
            -kept; of pairs it is a table for `align`. Default: no selection.
        links: New folder of links to the images of all findings, and to the images that are kept.
            Default: no links.
        columns: Names of the table's two columns, with a comma between them. From Python also a
            sequence. Default: guessed from the usual names.
        encoder: An nn.Module of the architecture that was trained, if the run trained your own.
        device: Device to compute on. auto is cuda if there is one, else mps, else cpu.
        workers: Number of processes that load samples. Default: 0 on a CPU and for data in memory,
            else one per CPU core, at most 8.

    Returns:
        The findings, what was not looked for and why, and the files that were written.

    Raises:
        sogclr.UserError: An error that the user can correct; one line says how.
    """
    MachineArguments(workers=workers)
    require_data(data)
    from .curate import curate as run_curation

    return run_curation(
        run,
        data,
        out=out,
        keep=keep,
        links=links,
        columns=columns,
        module=encoder,
        device=device,
        workers=workers,
    )


def serve(
    run: Run,
    data: OtherData | None = None,
    *,
    port: int | None = None,
    host: Host = "127.0.0.1",
    columns: Columns | None = None,
    encoder: OwnModule = None,
    device: Device = "auto",
) -> None:
    """Search in a browser on this machine: by a sentence, by a picture, or by a click on a result.

    A run of `pretrain` finds the neighbours of pictures, a run of `align` those of sentences too.
    The page shows captions, filters by label, and needs no network. The samples are embedded when
    the command is first used, and their vectors are kept in the folder of the run. Up to a million
    samples a query is compared with all of them. Ctrl-C ends the server.

    Args:
        run: Folder of the run.
        data: Samples to search: a folder or shards of images, `digits`, or pairs, of which the
            images (or the second texts) are searched. Default: what the run was trained on, if
            that is on this machine.
        port: Port of the address. Default: 8000, or the next one that is free.
        host: Name or number of this machine under which others may reach the page; 0.0.0.0 is
            every one that it has. Whoever reaches it sees all images: there is no password.
        columns: Names of the table's two columns, with a comma between them. From Python also a
            sequence. Default: those of the run, or guessed from the usual names.
        encoder: An nn.Module of the architecture that was trained, if the run trained your own.
        device: Device to embed on. auto is cuda if there is one, else mps, else cpu.

    Returns:
        Nothing, once the server has ended.

    Raises:
        sogclr.UserError: An error that the user can correct; one line says how.
    """
    require_data(data)
    from .serve import serve as run_server

    run_server(run, data, port=port, host=host, columns=columns, module=encoder, device=device)
