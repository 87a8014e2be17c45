"""The commands that show something to look at, as Python functions; see `api.py`."""

from dataclasses import replace

from ..common.options import REPORT_SAMPLES, Device
from ..planning.settings_preview import PreviewArguments
from .argument_types import Columns, File, OtherData, OwnModule, Page, Picture, Run
from .arguments import takes
from .early_checks import require_data, require_encoder, require_model, unwrap_encoder

__all__ = ["preview", "report"]


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
