"""Measure the towers of a run on pairs: the report, and retrieval between both sides."""

from dataclasses import dataclass

from ..common.errors import UserError
from ..data.pair_source import PairSource
from ..models.pair_encoder import PairEncoder
from .embed_pairs import embed_side
from .retrieval import Retrieval, retrieval
from .sts import SentenceSimilarity
from .zero_shot import ZeroShot

__all__ = ["PairReport", "measure_retrieval"]


@dataclass(frozen=True)
class PairReport:
    """The result of `sogclr.evaluate` for a run of `align`; one attribute is not None.

    Attributes:
        retrieval: recall and median rank in both directions.
        zero_shot: classification of images by the names of their classes.
        sts: rank correlation of similarities with scores of sentence pairs.
    """

    retrieval: Retrieval | None = None
    zero_shot: ZeroShot | None = None
    sts: SentenceSimilarity | None = None


def measure_retrieval(encoder: PairEncoder, source: PairSource) -> Retrieval:
    """Embed both sides of the pairs and measure retrieval between them.

    Raises:
        UserError: the pairs are of other kinds than those the run was trained on.
    """
    if source.kinds != encoder.spec.kinds:
        raise UserError(
            f"data: {source.name} pairs {' and '.join(source.kinds)}, "
            f"the run was trained on {' and '.join(encoder.spec.kinds)}"
        )
    a, b = (embed_side(encoder, side) for side in (source.a, source.b))
    return retrieval(a, b, source)
