"""`PairSource`: two sides of samples with stable ids, and which samples belong together.

An image or a text that occurs in several rows of a table is one sample with several partners. In
an epoch, each sample of side `a` occurs once, with one randomly drawn partner.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .image_source import ImageSource
from .randomness import uniforms
from .texts import Texts

__all__ = ["PARTNER_PURPOSE", "PairSource"]

PARTNER_PURPOSE = 2  # of `randomness.uniforms`; the purposes 0 and 1 are views


@dataclass(frozen=True)
class PairSource:
    """Pairs by row of side `a`.

    Attributes:
        name: what messages call the data.
        columns: names of the columns of side a and side b.
        a: images or texts, each with at least one partner.
        b: texts.
        start: `(n_a + 1,)`; `partners[start[i]:start[i + 1]]` are the partners of row i of `a`.
        partners: `(number of pairs,)` rows of `b`. The partners of one row of `a` are sorted by
            id, so that the order of the table does not affect which one is drawn.
        left_out: descriptions of what was left out.
        damaged: descriptions of what was left out because of damage; see `require_undamaged`.
        notes: descriptions of what is worth a look, though nothing is left out.
    """

    name: str
    columns: tuple[str, str]
    a: ImageSource | Texts
    b: Texts
    start: np.ndarray
    partners: np.ndarray
    left_out: list[str]
    damaged: Sequence[str] = ()
    notes: Sequence[str] = ()

    @property
    def kinds(self) -> tuple[str, str]:
        """Kinds of side a and side b, "image" or "text"."""
        return ("text" if isinstance(self.a, Texts) else "image", "text")

    @property
    def sizes(self) -> tuple[int, int]:
        """Numbers of samples of side a and side b."""
        return len(self.a), len(self.b)

    @property
    def image_size(self) -> int:
        """Side in pixels at which to train by default."""
        return getattr(self.a, "image_size", 224)

    @property
    def local(self) -> bool:
        """Return whether side a is in memory already, see `ImageSource`."""
        return getattr(self.a, "local", True)

    def draw(self, seed: int, epoch: int, rows: np.ndarray) -> np.ndarray:
        """Draw one partner uniformly for each row of `a`.

        Args:
            seed: the run's seed.
            epoch: the epoch, from 0.
            rows: `(b,)` rows of `a`.

        Returns:
            `(b,)` rows of `b`.
        """
        first, count = self.start[rows], np.diff(self.start)[rows]
        uniform = uniforms(seed, epoch, self.a.ids[rows], PARTNER_PURPOSE, 1)[:, 0]
        return self.partners[first + (uniform * count).astype(np.int64)]

    def owners(self) -> np.ndarray:
        """Return the row of `a` of every pair, `(number of pairs,)`."""
        return np.repeat(np.arange(len(self.a)), np.diff(self.start))

    def describe(self) -> str:
        """Say in one line what the data is, how many pairs it has, and what was left out."""
        what = "images" if self.kinds[0] == "image" else "texts"
        text = (
            f"{self.name}: {len(self.a):,} {what} with {len(self.partners):,} texts "
            f"(columns {self.columns[0]}, {self.columns[1]})"
        )
        text += "".join(f"; {note}" for note in self.notes)
        return text + "".join(f"; left out: {reason}" for reason in self.left_out)
