"""Sample ids: checks that do not wait for a device, and masks of equal samples.

A sample's row in the table identifies it: samples of equal row are equal. If there are more samples
than rows, samples share a row, whose normalizer is their average, and sample keys identify them.
"""

from dataclasses import dataclass, replace
from functools import reduce

import torch
from torch import Tensor

from . import torch_versions

__all__ = [
    "SampleIds",
    "check_ids",
    "check_integers",
    "holds_integers",
    "move_ids",
    "never_negatives",
    "view_rows",
]


def check_ids(ids: Tensor, count: int, name: str) -> bool:
    """Raise IndexError unless ids `(B,)`, called `name` in the message, are in [0, count).

    Return whether they were checked. The host would wait for ids on an accelerator, so these are
    not, nor are ids while compiling. Ids that are no integers are a TypeError in any case.
    """
    check_integers(ids, name)
    if ids.device.type != "cpu" or torch_versions.is_compiling():
        return False
    values = ids.to(torch.int64)  # unsigned ids above 2**63 become negative
    smallest, largest = values.aminmax() if values.numel() else (0, 0)
    if int(smallest) < 0 or int(largest) >= count:
        outside = values[(values < 0) | (values >= count)]
        raise IndexError(
            f"{name} {int(outside[0])} is outside [0, {count}): "
            f"make the loss with a number above the largest {name}"
        )
    return True


def check_integers(ids: Tensor, name: str) -> None:
    """Raise TypeError unless the ids, called `name` in the message, are a tensor of integers."""
    if not isinstance(ids, Tensor):
        raise TypeError(
            f"{name}s must be a tensor of integers (B,), got {type(ids).__name__}: "
            "convert them with torch.as_tensor"
        )
    if not holds_integers(ids):
        raise TypeError(f"{name}s must be integers, got {ids.dtype}")


def holds_integers(tensor: Tensor) -> bool:
    """Return whether the entries are integers, signed or not; true and false are not."""
    return not (tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool)


def move_ids(ids: Tensor, device: torch.device, name: str = "sample id") -> Tensor:
    """Convert ids `(B,)` of any integer type to int64 on `device`."""
    check_integers(ids, name)  # as floats, different 64-bit keys could be equal
    # Only CUDA orders an asynchronous copy before the kernels that read it.
    return ids.to(device, torch.int64, non_blocking=device.type == "cuda")


@dataclass(frozen=True)
class SampleIds:
    """The ids of B samples: two views each, a and b, or pairs of samples a and b.

    Attributes:
        rows_a, rows_b: `(B,)` int64, rows of a and of b in their normalizers.
        identities: `(B,)` int64 each; samples with an equal value in any are never negatives.
        slots: number of identities in `stacked`, equal for all batches of a loss.
        rows_identify: whether rows are identities too; then `identities` begins with them.
    """

    rows_a: Tensor
    rows_b: Tensor
    identities: list[Tensor]
    slots: int = 1
    rows_identify: bool = False

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
        """Make the ids of pairs from rows and the arguments of `GlobalClipLoss.forward`.

        With `two_numberings`, side b has other rows than side a: then pairs that share a row of
        side b are never negatives either.
        """
        device, keyed = rows_a.device, sample_key is not None or sample_key_b is not None
        identities = [rows_a if sample_key is None else move_ids(sample_key, device, "sample key")]
        if sample_key_b is not None:
            identities.append(move_ids(sample_key_b, device, "sample key"))
        elif two_numberings:
            identities.append(rows_b)
        if group is not None:
            identities.append(move_ids(group, device, "group"))
        return cls(rows_a, rows_b, identities, slots=3 if keyed else 1, rows_identify=not keyed)

    def stacked(self) -> Tensor:
        """Stack rows and identities, `(2 + slots, B)`."""
        # A repeated identity does not change the mask.
        repeated = [self.identities[-1]] * (self.slots - len(self.identities))
        chosen = [*self.identities, *repeated][-self.slots :]
        return torch.stack([self.rows_a, self.rows_b, *chosen])

    def unstacked(self, stacked: Tensor) -> "SampleIds":
        """Make the ids of M samples from rows and identities, `(2 + slots, M)`."""
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
    """Mask some rows and columns of a matrix of similarities: the entries that are no negatives.

    Args:
        identities: `(M,)` each; samples with an equal value in any are no negatives.
        rows, columns: those of the `(M, M)` matrix to mask.
        present: `(M,)` bool, whether a sample exists; default: all exist.
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
        views: `(B,)` integers each, the number of the stored view of `view1` and of `view2`.
        sizes: number of samples, number of stored views.
        device: device of the results.

    Returns:
        Sample ids `(B,)`, and rows `(2, B)` of both views. On an accelerator, an invalid id becomes
        the number of samples, and the row of an invalid id or view becomes -1.
    """
    samples, number = sizes
    check_ids(index, samples, "sample id")
    sample, rows = move_ids(index, device), []
    sample = torch.where((sample >= 0) & (sample < samples), sample, samples)
    for view in views:
        check_ids(view, number, "view")
        if view.shape != sample.shape:
            raise ValueError(f"views {tuple(view.shape)} do not match ids {tuple(sample.shape)}")
        view = move_ids(view, device)
        # An invalid view must not become a row of the next sample.
        valid = (view >= 0) & (view < number) & (sample < samples)
        rows.append(torch.where(valid, sample * number + view, -1))
    return sample, torch.stack(rows)
