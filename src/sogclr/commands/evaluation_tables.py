"""Print the results of `sogclr.evaluate`: tables, and what their numbers mean."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict

from rich.table import Table

from ..common.console import cell
from ..common.options import Protocol
from ..evaluation.classes import standard_error
from ..evaluation.classified import Classified
from ..evaluation.images import Accuracy, ImageReport
from ..evaluation.retrieval import Retrieval
from ..evaluation.zero_shot import ZeroShot

__all__ = [
    "describe_classified",
    "describe_zero_shot",
    "explain_accuracy",
    "explain_views",
    "image_table",
    "per_class_table",
    "retrieval_table",
]


def image_table(report: ImageReport, protocols: Sequence[Protocol]) -> Table:
    """List the scores of all kinds of features, with standard errors."""
    table = Table()
    table.add_column("features")
    for protocol in protocols:
        table.add_column(protocol, justify="right")
    if report.images:
        majority = f"{report.majority:.2%}"
        shares = ["" if protocol == "views" else majority for protocol in protocols]
        table.add_row("always the largest class", *shares)
    for name in ("raw_pixels", "untrained", "trained"):
        accuracy = getattr(report, name)
        cells = [
            _format_share(
                getattr(accuracy, protocol),
                report.compared if protocol == "views" else report.images,
            )
            for protocol in protocols
        ]
        table.add_row(name.replace("_", " "), *cells)
    table.caption = "± the standard error, from the number of images"
    return table


def explain_accuracy(
    report: ImageReport, protocols: Sequence[Protocol], *, tested_alone: bool
) -> str:
    """Say what the accuracies of classifiers are of.

    Args:
        report: a report with classifiers.
        protocols: what was measured.
        tested_alone: whether images of their own were tested.
    """
    names = ", ".join(name for name in protocols if name != "views")
    how = {"knn": "knn leaves out one image at a time", "linear": "linear a fifth of them"}
    left_out = ", ".join(how[name] for name in protocols if name in how)
    return (
        f"{names}: accuracy on {report.images:,} images in {len(report.per_class):,} classes"
        f"{'' if tested_alone else '; ' + left_out}."
    )


def explain_views(report: ImageReport, temperature: float) -> str:
    """Say what the scores of views are, and give those of the projections.

    Args:
        report: a report with views.
        temperature: tau of F and F2.
    """
    text = (
        "views: how often a random view is nearest to the other view of its image, among "
        f"{report.compared:,} images."
    )
    scores = report.projections
    if scores is None:
        return text
    return (
        f"{text} Of the projections it is {scores.recall:.2%}; the exact objective at tau "
        f"{temperature:g}: F {scores.objective:+.4f}, F2 {scores.objective2:+.4f} (lower is "
        "better; compare at equal tau)."
    )


def per_class_table(shares: Mapping[str, Accuracy] | Mapping[str, float]) -> Table:
    """List the accuracy of the trained encoder on each class, the lowest first."""
    rows = {
        name: {k: v for k, v in asdict(share).items() if v is not None}
        if isinstance(share, Accuracy)
        else {"accuracy": share}
        for name, share in shares.items()
    }
    table = Table()
    table.add_column("class")
    columns = next(iter(rows.values()), {})
    for name in columns:
        table.add_column(name, justify="right")
    for name, values in sorted(rows.items(), key=lambda row: (*row[1].values(), row[0])):
        table.add_row(cell(name), *(f"{value:.1%}" for value in values.values()))
    table.caption = "of the trained encoder, lowest first"
    return table


def describe_classified(measured: Classified) -> str:
    """Give the accuracy with its standard error, and what the largest class gives."""
    error = 100 * measured.standard_error
    return (
        f"accuracy {measured.accuracy:.2%} ± {error:.2f}, of {measured.images:,} images in "
        f"{len(measured.per_class):,} classes (always the largest class {measured.majority:.2%})"
    )


def describe_zero_shot(measured: ZeroShot) -> str:
    """Give the accuracy with its standard error, top-5 accuracy, and what chance gives."""
    error = standard_error(measured.accuracy, measured.images)
    top5 = "" if measured.top5 is None else f", top-5 {measured.top5:.2%}"
    return (
        f"zero-shot accuracy {measured.accuracy:.2%} ± {100 * error:.2f}{top5}, of "
        f"{measured.images:,} images in {len(measured.classes):,} classes (by chance "
        f"{1 / len(measured.classes):.2%}, always the largest class {measured.majority:.2%})"
    )


def retrieval_table(retrieval: Retrieval, columns: tuple[str, str]) -> Table:
    """List recalls, with the standard error of R@1, and the median rank in both directions."""
    table = Table()
    table.add_column("retrieval")
    for name in ("R@1", "R@5", "R@10", "median rank", "queries"):
        table.add_column(name, justify="right")
    a, b = columns
    for name, direction in ((f"{a} to {b}", retrieval.a_to_b), (f"{b} to {a}", retrieval.b_to_a)):
        first, *others = direction.recall.values()
        error = 100 * standard_error(first, direction.queries)
        recalls = [f"{first:.1%} ± {error:.1f}", *(f"{value:.1%}" for value in others)]
        table.add_row(cell(name), *recalls, f"{direction.median_rank:g}", f"{direction.queries:,}")
    table.caption = f"sum of the six recalls: {retrieval.total:.1f}"
    return table


def _format_share(share: float, count: int) -> str:
    return f"{share:.2%} ± {100 * standard_error(share, count):.2f}"
