"""Who the samples of a batch are: where they are kept, and who is no negative of whom.

Both are told by one number, the sample's row, unless samples outnumber the rows and some share one.
Then keys beside the rows tell who is who: samples that share a row are each other's negatives, and
have one normalizer, the average of theirs.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from .sample_ids import check_ids, check_integers, move_ids

__all__ = ["PairIds", "move_keys", "rows_of_views"]


def move_keys(keys: Tensor, device: torch.device) -> Tensor:
    """Keys `(B,)` of any integer type to int64 on `device`, without a wait where that is safe.

    Raises:
        TypeError: they are not integers. As floats, different keys of 64 bits become equal.
    """
    check_integers(keys, "key")
    return move_ids(keys, device)


@dataclass(frozen=True)
class PairIds:
    """Of a batch of pairs.

    Attributes:
        rows_a: `(B,)` int64, where the estimators of side a keep them.
        rows_b: `(B,)` int64, the same of side b.
        compared: `(B,)` int64 each; pairs that share any are no negatives of each other. Those
            of side a, those of side b if they are others, and groups if there are any.
        keyed: whether what tells either side's samples apart is another number than the row.
    """

    rows_a: Tensor
    rows_b: Tensor
    compared: list[Tensor]
    keyed: bool

    @classmethod
    def told(
        cls,
        rows_a: Tensor,
        rows_b: Tensor,
        two_numberings: bool,
        group: Tensor | None,
        key: Tensor | None = None,
        sample_key_b: Tensor | None = None,
    ) -> "PairIds":
        """What is passed to a loss, on the device of the rows.

        Args:
            rows_a, rows_b: see above.
            two_numberings: whether rows of side b are others than those of side a, so that pairs
                can share either.
            group: `(B,)` integers or None; see `PairLoss.forward`.
            key, sample_key_b: `(B,)` integers or None; see `GlobalClipLoss.forward`.
        """
        device = rows_a.device
        compared = [rows_a if key is None else move_keys(key, device)]
        if sample_key_b is not None:
            compared.append(move_keys(sample_key_b, device))
        elif two_numberings:
            compared.append(rows_b)
        if group is not None:
            compared.append(move_ids(group, device))
        return cls(rows_a, rows_b, compared, keyed=key is not None or sample_key_b is not None)

    def stacked(self) -> Tensor:
        """All of it, as many numbers for every batch: `(3, B)`, or where it is keyed `(5, B)`."""
        first, last = self.compared[0], self.compared[-1]
        if not self.keyed:
            # The last is the group, or who they are once more.
            return torch.stack([self.rows_a, self.rows_b, last])
        second = self.compared[1] if len(self.compared) > 1 else first
        return torch.stack([self.rows_a, self.rows_b, first, second, last])

    def of(self, stacked: Tensor) -> "PairIds":
        """Of other pairs, stacked likewise."""
        rows_a, rows_b, *rest = stacked
        return PairIds(rows_a, rows_b, rest if self.keyed else list(stacked), self.keyed)


def rows_of_views(
    index: Tensor, views: tuple[Tensor, Tensor], sizes: tuple[int, int], device: torch.device
) -> tuple[Tensor, Tensor]:
    """Where stored views are kept: sample after sample, a row each.

    Args:
        index: `(B,)` integers, the samples.
        views: `(B,)` integers each, which of its views each is.
        sizes: how many samples, and views of each.
        device: to which.

    Returns:
        Samples `(B,)`, the number of samples where it is outside (the spare row); and rows `(2B,)`
        of both views, -1 where either is outside.

    Raises:
        ValueError: shapes that do not match.
        IndexError: ids on the CPU that are outside.
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
        # Out of range as a view must not come out as a row of the next sample.
        valid = (view >= 0) & (view < number) & (sample < samples)
        rows.append(torch.where(valid, sample * number + view, -1))
    return sample, torch.cat(rows)
