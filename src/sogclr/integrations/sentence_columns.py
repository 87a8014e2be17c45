"""The pairs and sample ids of a data set of sentence-transformers, and those of a batch."""

from itertools import accumulate
from typing import TypeVar

from datasets import Dataset
from torch import Tensor

__all__ = ["ids_in", "two_columns", "with_sample_ids"]

# Column names that the stock collator treats as labels, in its order; sample ids use the first.
LABEL_COLUMNS = ("label", "labels", "score", "scores")

AnyDataset = TypeVar("AnyDataset", Dataset, dict[str, Dataset])


def with_sample_ids(dataset: AnyDataset) -> AnyDataset:
    """Add a column of sample ids that the stock collator passes to the loss.

    Call it once, before the dataset is shuffled, filtered or split, so that each pair keeps its id.

    Args:
        dataset: a dataset with two columns of text, or a dict of such datasets. The ids of a dict
            continue from one dataset to the next, so that one loss can serve all of them with
            `num_samples=sum(map(len, dataset.values()))`. To use one loss for each dataset, call
            this function for each dataset.

    Returns:
        The dataset with a last column "label", which holds `[i]` for pair i.

    Raises:
        ValueError: the dataset has a column already that the collator would treat as labels.
        TypeError: the argument is not a `Dataset`; the pairs of a stream have no numbers.
    """
    if isinstance(dataset, dict):
        starts = accumulate(map(len, dataset.values()), initial=0)
        parts = zip(dataset.items(), starts, strict=False)  # starts has one more element
        return type(dataset)({name: _number(part, start) for (name, part), start in parts})
    return _number(dataset, 0)


def _number(dataset: Dataset, start: int) -> Dataset:
    if not isinstance(dataset, Dataset):
        raise TypeError(
            f"the pairs of a {type(dataset).__name__} have no numbers: with_sample_ids needs a "
            "datasets.Dataset, or a dict of them"
        )
    taken = [name for name in LABEL_COLUMNS if name in dataset.column_names]
    if taken:
        raise ValueError(
            f"the dataset has a column {taken[0]!r}, which the collator treats as labels and which "
            f"would replace the sample ids: call dataset.remove_columns({taken}) first"
        )
    ids = [[row] for row in range(start, start + len(dataset))]
    old_format = dataset.format  # add_column drops the format and its transform
    return dataset.add_column(LABEL_COLUMNS[0], ids).with_format(
        old_format["type"],
        output_all_columns=old_format["output_all_columns"],
        **old_format["format_kwargs"],
    )


def two_columns(columns: list[dict[str, Tensor]]) -> list[dict[str, Tensor]]:
    """Return the tokenized anchors and positives; raise ValueError for more or fewer columns."""
    if len(columns) != 2:
        raise ValueError(
            f"GlobalRankingLoss compares two columns of text, anchor and positive, and got "
            f"{len(columns)}; it does not use the explicit hard negatives of "
            "MultipleNegativesRankingLoss: "
            "call dataset.select_columns([anchor, positive, 'label'])"
        )
    return columns


def ids_in(labels: Tensor | None) -> Tensor:
    """Return the sample ids `(B,)` in the labels of a batch; raise ValueError for other labels."""
    if labels is None:
        raise ValueError(
            "the batch has no sample ids: train on with_sample_ids(dataset), from "
            "sogclr.integrations.sentence_transformers"
        )
    if labels.ndim != 2 or labels.shape[1] != 1 or labels.dtype.is_floating_point:
        raise ValueError(
            f"the labels of the batch are not sample ids (shape {tuple(labels.shape)}, "
            f"{labels.dtype}): remove the dataset's column of labels or scores, then train on "
            "with_sample_ids(dataset)"
        )
    return labels.squeeze(1)
