"""Ids of samples: checked without waiting for a device, and told apart.

One number, the row in the table, tells where a sample's normalizer is and which samples are equal.
Where samples outnumber rows, several share a row: their normalizer is the average of theirs, and
sample keys tell which samples are equal.
"""

from dataclasses import dataclass, replace
from functools import reduce

import torch
from torch import Tensor

__all__ = ["SampleIds", "check_ids", "check_integers", "move_ids", "never_negatives", "view_rows"]


def check_ids(ids: Tensor, count: int, name: str) -> bool:
    """Check ids that are on the CPU; reading others would wait for the device.

    Args:
        ids: `(B,)` integers.
        count: ids must be in [0, count).
        name: what messages call an id.

    Returns:
        Whether they were checked.

    Raises:
        TypeError: the ids are not integers.
        IndexError: an id is out of range.
    """
    check_integers(ids, name)
    if ids.device.type != "cpu" or torch.compiler.is_compiling():
        return False
    values = ids.numpy()  # faster than torch for a few numbers
    if values.size and (values.min() < 0 or values.max() >= count):
        outside = ids[(ids < 0) | (ids >= count)]
        raise IndexError(
            f"{name} {int(outside[0])} is outside [0, {count}): "
            "the number given to the loss must be larger than the largest one"
        )
    return True


def check_integers(ids: Tensor, name: str) -> None:
    """Raise TypeError unless the ids, called `name` in the message, are integers."""
    if ids.dtype.is_floating_point or ids.dtype.is_complex or ids.dtype == torch.bool:
        raise TypeError(f"{name}s must be integers, got {ids.dtype}")


def move_ids(ids: Tensor, device: torch.device, name: str = "sample id") -> Tensor:
    """Convert ids `(B,)` of any integer type to int64 on `device`.

    Raises:
        TypeError: the ids are not integers. Different 64-bit keys can be equal as floats.
    """
    check_integers(ids, name)
    # Elsewhere than on CUDA a copy that is not waited for may be read before it has arrived.
    return ids.to(device, torch.int64, non_blocking=device.type == "cuda")


@dataclass(frozen=True)
class SampleIds:
    """The ids of a batch of B samples with two sides each (views, or the sides of pairs).

    Attributes:
        rows_a: `(B,)` int64 rows of the first side in its normalizer.
        rows_b: `(B,)` int64 rows of the second side.
        identities: `(B,)` int64 each; samples that are equal in any are never negatives.
        slots: how many identities are stacked, so that every batch has as many.
        rows_identify: whether the rows are identities as well; then `identities` holds them first.
    """

    rows_a: Tensor
    rows_b: Tensor
    identities: list[Tensor]
    slots: int
    rows_identify: bool = False

    @classmethod
    def of_views(cls, rows_a: Tensor, rows_b: Tensor, sample: Tensor) -> "SampleIds":
        """Take ids of two views; `sample` `(B,)` tells which samples are equal."""
        return cls(rows_a, rows_b, [sample], slots=1)

    @classmethod
    def of_pairs(
        cls,
        rows_a: Tensor,
        rows_b: Tensor,
        two_numberings: bool,
        group: Tensor | None,
        sample_key: Tensor | None = None,
        sample_key_b: Tensor | None = None,
    ) -> "SampleIds":
        """Take ids of pairs as `GlobalClipLoss.forward` gets them, onto the device of the rows.

        Args:
            rows_a, rows_b: `(B,)` rows.
            two_numberings: whether the rows of side b are numbered differently from those of
                side a, so that pairs can share either.
            group, sample_key, sample_key_b: `(B,)` integers or None.
        """
        device, keyed = rows_a.device, sample_key is not None or sample_key_b is not None
        identities = [rows_a if sample_key is None else move_ids(sample_key, device, "key")]
        if sample_key_b is not None:
            identities.append(move_ids(sample_key_b, device, "key"))
        elif two_numberings:
            identities.append(rows_b)
        if group is not None:
            identities.append(move_ids(group, device, "group"))
        return cls(rows_a, rows_b, identities, slots=3 if keyed else 1, rows_identify=not keyed)

    def stacked(self) -> Tensor:
        """Stack rows and identities, `(2 + slots, B)`."""
        last = self.identities[-1]
        repeated = [*self.identities, *[last] * self.slots]  # a repeated identity adds nothing
        chosen = [last] if self.slots == 1 else repeated[: self.slots]
        return torch.stack([self.rows_a, self.rows_b, *chosen])

    def unstacked(self, stacked: Tensor) -> "SampleIds":
        """Take ids of other samples, stacked likewise, `(2 + slots, M)`."""
        rows_a, rows_b, *identities = stacked
        if self.rows_identify:
            identities = [rows_a, rows_b, *identities]
        return replace(self, rows_a=rows_a, rows_b=rows_b, identities=identities)


def never_negatives(
    identities: list[Tensor],
    rows: slice = slice(None),
    columns: slice = slice(None),
    present: Tensor | None = None,
) -> Tensor:
    """Mask the entries of a matrix that are positives or absent, `(n, m)` bool.

    Args:
        identities: `(M,)` each; entries with an equal one are no negatives.
        rows: the rows of the `(M, M)` matrix that are wanted.
        columns: the columns that are wanted.
        present: `(M,)` bool, samples that exist; default: all.
    """
    masks = [each[rows, None] == each[None, columns] for each in identities]
    if present is not None:
        masks.append(~(present[rows, None] & present[None, columns]))
    return reduce(torch.logical_or, masks)


def view_rows(
    index: Tensor, views: tuple[Tensor, Tensor], sizes: tuple[int, int], device: torch.device
) -> tuple[Tensor, Tensor]:
    """Compute the rows of stored views: one for each (sample, view), sample after sample.

    Args:
        index: `(B,)` integers, sample ids.
        views: `(B,)` integers each, which stored view either view is.
        sizes: number of samples, number of stored views.
        device: where the results are wanted.

    Returns:
        Sample ids `(B,)`, the number of samples in place of invalid ones; and rows `(2, B)` of both
        views, -1 where the id or the view is invalid.

    Raises:
        ValueError: shapes that do not match.
        IndexError: ids on the CPU that are out of range.
    """
    samples, number = sizes
    check_ids(index, samples, "sample id")
    sample, rows = move_ids(index, device), []
    sample = torch.where((sample >= 0) & (sample < samples), sample, samples)
    for view in views:
        if view.shape != sample.shape:
            raise ValueError(f"views {tuple(view.shape)} do not match ids {tuple(sample.shape)}")
        check_ids(view, number, "view")
        view = move_ids(view, device)
        # An invalid view must not become a row of the next sample.
        valid = (view >= 0) & (view < number) & (sample < samples)
        rows.append(torch.where(valid, sample * number + view, -1))
    return sample, torch.stack(rows)
