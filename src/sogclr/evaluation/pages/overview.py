"""The sections that need no data: the run, its plan, its views, its audit, how to load it."""

from datetime import datetime
from shlex import quote

from ...common.errors import UserError
from ...runs.stored import read_json
from .page import Block, Code, Facts, Picture, Pictures, Section, Table, Text
from .record import RunRecord
from .thumbnails import file_as_data

__all__ = [
    "audit_section",
    "loading_section",
    "next_section",
    "plan_section",
    "run_section",
    "views_section",
]

WIDEST = 1_400  # pixels of a picture that a run or an audit has written
SCORES = {"knn": "kNN accuracy (training images)", "R@1": "R@1 (mean of both directions)"}


def run_section(record: RunRecord, data: str) -> Section:
    """Say what was run, how far it is, and its latest numbers.

    Args:
        record: the run.
        data: a description of the data that the page looks at, or why there is none.
    """
    settings = record.settings
    command = "align" if record.is_pairs else "pretrain"
    facts = [
        ("Command", f"sogclr {command}", f"method {settings.method}"),
        ("Progress", _describe_progress(record), _describe_time()),
    ]
    for name, title in SCORES.items():
        if values := record.curve(name)[1]:
            facts.append((title, f"{values[-1]:.1%}", f"best {max(values):.1%}"))
    table, batch = (record.curve(name)[1] for name in ("normalizer_error", "in_batch_error"))
    if table and batch:
        remark = f"estimates from the batch alone: {_late_mean(batch):.2f} nats"
        facts.append(("Error of the stored log u", f"{_late_mean(table):.2f} nats", remark))
    return Section("What was run", [Facts(facts), Text(data)])


def _describe_progress(record: RunRecord) -> str:
    total = record.settings.epochs
    if record.is_complete:
        return f"complete: {total:,} epochs" if total != 1 else "complete: 1 epoch"
    state = "training now" if record.is_training else "stopped"
    return f"{state}: epoch {record.epochs_done:.1f} of {total:,}"


def _describe_time() -> str:
    return f"page of {datetime.now():%Y-%m-%d %H:%M}"


def _late_mean(values: list[float]) -> float:
    """Average over the last tenth of a curve: single points are noisy."""
    late = values[-max(1, len(values) // 10) :]
    return sum(late) / len(late)


def plan_section(record: RunRecord) -> Section:
    """List the settings, with the reason for each that was derived."""
    rows = record.reasons
    blocks: list[Block] = []
    if rows:
        caption = "The settings that decide most, as they were printed when the run started."
        blocks.append(Table(["setting", "value", "reason"], rows, caption, numeric=False))
    given = {k: v for k, v in record.asked.items() if v not in (None, False, "auto")}
    if not rows and given:
        older = [[name.replace("_", " "), str(value), ""] for name, value in given.items()]
        caption = "The settings as they were given. Runs of this version keep reasons, too."
        blocks.append(Table(["setting", "value", ""], older, caption, numeric=False))
    return Section("Plan", blocks, "" if blocks else "the run keeps no plan")


def views_section(record: RunRecord) -> Section:
    """Show the augmented views that the run has drawn before it started."""
    title = "Augmented views"
    if record.is_pairs:
        return Section(title, missing="a run on pairs draws no picture of its views")
    image = file_as_data(record.run.views, WIDEST)
    if image is None:
        return Section(title, missing=f"{record.run.views.name} is missing or damaged")
    picture = Picture(
        "What the encoder is trained on",
        image,
        "Images, each beside two augmented views of it",
        "Each image is followed by two random views of it. They should show the same thing to "
        "you, but not be copies. If a view shows nothing that you would recognize, raise "
        "--views.crop-min; if colour tells your classes apart, lower --views.color.",
    )
    return Section(title, [Pictures([picture], wide=True)])


def audit_section(record: RunRecord) -> Section:
    """Show the picture and the sentence of `sogclr audit`, if it was run."""
    title = "Audit"
    folder = record.run.folder
    missing = "not done: sogclr audit measures what the batch size costs; see “What to type next”"
    image = file_as_data(folder / "audit.png", WIDEST)
    try:
        summary = read_json(folder / "audit.json").get("summary")
    except UserError:
        summary = None
    blocks: list[Block] = [Text(summary)] if isinstance(summary, str) else []
    if image is not None:
        picture = Picture(
            "Error of the average step against batch size",
            image,
            summary if isinstance(summary, str) else "Error of the gradient against batch size",
            "How far the average gradient of a batch is from that of all data; lower is better.",
        )
        blocks.append(Pictures([picture], wide=True))
    return Section(title, blocks, "" if blocks else missing)


def loading_section(record: RunRecord) -> Section:
    """Show the code that loads the model."""
    own = "custom" in str(getattr(record.settings, "encoder", None)) or "custom" in str(
        getattr(record.settings, "image_tower", None)
    )
    folder = str(record.run.folder)
    load = f"model = sogclr.load({folder!r}" + (", encoder=your_module)" if own else ")")
    lines = ["import sogclr", "", load + "  # an nn.Module, in eval mode"]
    lines.append('images = model.encode_image(["photos/cat/1.jpg"])  # (1, d); or Pillow images')
    if record.is_pairs:
        lines.append('texts = model.encode_text(["a dog in the snow"])  # (1, d)')
        lines.append("similarity = images @ texts.T  # cosine similarities")
    return Section("How to load the model", [Code(lines)])


def next_section(record: RunRecord, data: str) -> Section:
    """List the commands that tell more, as they can be typed.

    Args:
        record: the run.
        data: what a user types to name the data.
    """
    title = "What to type next"
    if not record.metrics:
        return Section(title, missing="nothing is trained yet")
    run, given = quote(str(record.run.folder)), data if data == "DATA" else quote(data)
    commands = [
        ("evaluate", "", "more measures; on a test set with its name instead"),
        ("curate", " --out list.csv", "all findings, with paths"),
        ("audit", "", "what the batch size costs"),
        ("serve", "", "search in a browser"),
    ]
    lines = [(f"sogclr {name} {run} {given}{end}", why) for name, end, why in commands]
    width = max(len(line) for line, _ in lines)
    return Section(title, [Code([f"{a:{width}}  # {why}" for a, why in lines])])
