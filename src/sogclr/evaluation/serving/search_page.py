"""Compose the page of a search: the query, the samples that were found, and where links lead."""

import random
import time
from dataclasses import dataclass, field, replace
from functools import cached_property
from threading import Lock
from typing import Any

import numpy as np

from ...data.image_source import ImageSource
from ...data.texts import Texts
from ...models.text_lengths import count_tokens
from ..searching.exact_index import Hits
from ..searching.searchable import Searchable
from .asked import MOST, Asked
from .pictures import Uploads, is_tiny
from .sample_crowding import SampleCrowding

__all__ = ["SearchPage", "UnknownQueryError"]

EXAMPLES = 6


class UnknownQueryError(Exception):
    """A query that leads nowhere; the message says why."""


@dataclass(frozen=True)
class Card:
    """A sample on the page.

    Attributes:
        name: file name of an image, or the text itself.
        like: address of the page of its neighbours.
        picture: address of its picture; "" for a text.
        note: its similarity with the query.
        label: name of its label, or "".
        captions: the captions of an image.
    """

    name: str
    like: str
    picture: str = ""
    note: str = ""
    label: str = ""
    captions: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Query:
    """A query and its heading.

    Attributes:
        vector: its unit vector `(d,)`.
        heading: what the samples below it are.
        card: the picture or sample; None for a sentence.
        row: the sample itself, which is left out.
        remark: what is worth knowing about it.
        pixelated: whether pixels of its picture are shown as squares.
    """

    vector: np.ndarray
    heading: str
    card: Card | None = None
    row: int | None = None
    remark: str = ""
    pixelated: bool = False


class SearchPage:
    """Answers what pages ask.

    Args:
        searchable: what is searched.
        uploads: pictures that were dropped in.
        title: name of the run.
        crowding: how crowded the samples are; None if the run does not know.
    """

    def __init__(
        self,
        searchable: Searchable,
        uploads: Uploads,
        title: str,
        crowding: SampleCrowding | None = None,
    ) -> None:
        self._searched, self._uploads, self._title = searchable, uploads, title
        self._crowding = crowding
        self._encoding = Lock()  # tokenizers take one thread at a time
        # Ids stay the same when data grows, but browsers must not keep pictures of other data.
        self._version = f"{random.getrandbits(32):08x}"

    def answer(self, asked: Asked) -> dict[str, Any]:
        """Return what the template inserts.

        Raises:
            UnknownQueryError: the address asks for what does not exist.
        """
        searched = self._searched
        if asked.label is not None and asked.label >= len(searched.labels):
            raise UnknownQueryError("There is no such label in the data.")
        started = time.perf_counter()
        query = self._find_query(asked)
        if query is None:
            hits = self._draw(asked)
        else:
            hits = searched.nearest(query.vector, asked.count, label=asked.label, without=query.row)
        seconds = time.perf_counter() - started
        total = len(searched.side)
        if asked.label is not None:
            total = searched.labels[asked.label][1]
        more = len(hits.rows) == asked.count and asked.count < min(MOST, total)
        return {
            **self._frame(asked),
            "query": query,
            "facts": self._facts(query, hits, asked),
            "heading": self._heading(query, len(hits.rows), total),
            "cards": self._cards(hits, asked, query is not None),
            "more": replace(asked, count=min(MOST, 2 * asked.count)).address if more else "",
            "examples": self._draw_examples() if query is None else [],
            "remark": self._describe_search(asked, seconds) if query is not None else "",
        }

    def refuse(self, asked: Asked, reason: str) -> dict[str, Any]:
        """Return what the template inserts where there is no answer."""
        nothing: dict[str, Any] = {
            "query": None,
            "heading": "",
            "cards": [],
            "more": "",
            "examples": [],
        }
        frame = self._frame(replace(asked, label=None))
        return {**frame, **nothing, "facts": [], "remark": "", "error": reason}

    def row_of(self, sample: str) -> int | None:
        """Return the row of a sample by its id in hexadecimal digits; None if there is none."""
        try:
            number = int(sample, 16)
        except ValueError:
            return None
        ids, order = self._searched.side.ids, self._order
        if not 0 <= number < 1 << 64:
            return None
        place = int(np.searchsorted(ids, np.uint64(number), sorter=order))
        if place == len(ids) or ids[order[place]] != number:
            return None
        return int(order[place])

    def _frame(self, asked: Asked) -> dict[str, Any]:
        """Return what is on every page: the fields to search with."""
        searched = self._searched
        side = searched.side
        return {
            "title": self._title,
            "about": searched.about,
            "asked": asked,
            "all_labels": replace(asked, label=None).address,
            "labels": searched.labels,
            "takes_text": searched.takes_text,
            "takes_images": searched.takes_images,
            "of_texts": isinstance(side, Texts),
            "pixelated": isinstance(side, ImageSource) and is_tiny(side.image_size),
            "error": "",
        }

    def _find_query(self, asked: Asked) -> Query | None:
        if asked.text:
            return self._find_sentence(asked.text)
        if asked.picture:
            return self._find_upload(asked.picture)
        return self._find_sample(asked.like) if asked.like else None

    def _find_sentence(self, text: str) -> Query:
        if not self._searched.takes_text:
            raise UnknownQueryError(
                "This run was trained on images alone: drop a picture, or click one."
            )
        with self._encoding:
            vector = self._searched.encode_text(text)
            tokenizer: Any = self._searched.encoder.tokenizer
            tokens, most = count_tokens(tokenizer, [text])[0], tokenizer.context_length
        cut = f"Only the first {most} of {tokens} tokens are read." if tokens > most else ""
        return Query(vector, f"nearest to “{text}”", remark=cut)

    def _find_upload(self, name: str) -> Query:
        upload = self._uploads.get(name)
        if upload is None:
            raise UnknownQueryError("This picture was forgotten. Choose it again.")
        card = Card("Your picture", "", picture=f"/dropped/{name}")
        return Query(
            upload.vector, "nearest to this picture", card=card, pixelated=upload.pixelated
        )

    def _find_sample(self, sample: str) -> Query:
        row = self.row_of(sample)
        if row is None:
            raise UnknownQueryError("There is no such sample in the data.")
        vector = self._searched.index.unit(row)
        if vector is None:
            raise UnknownQueryError(f"{self._searched.name_of(row)} cannot be read.")
        kind = "text" if isinstance(self._searched.side, Texts) else "image"
        card = self._card(row, Asked(), large=True)
        pixelated = self._frame(Asked())["pixelated"]
        return Query(vector, f"nearest to this {kind}", card=card, row=row, pixelated=pixelated)

    def _draw(self, asked: Asked) -> Hits:
        """Draw samples at random, to begin with."""
        searched = self._searched
        rows: Any = range(len(searched.side))
        if asked.label is not None:
            rows = searched.rows_with(asked.label).tolist()
        drawn = random.sample(rows, min(asked.count, len(rows)))
        return Hits(np.array(drawn, dtype=np.int64), np.zeros(len(drawn), dtype=np.float32))

    def _draw_examples(self) -> list[tuple[str, str]]:
        """Draw captions, and the addresses that search for them."""
        pairs = self._searched.pairs
        if pairs is None or not self._searched.takes_text:
            return []
        rows = random.sample(range(len(pairs.a)), min(EXAMPLES, len(pairs.a)))
        captions = [found for found in map(self._searched.captions_of, rows) if found]
        texts = [min(found, key=len) for found in captions]
        return [(Asked(text=text).address, text) for text in texts]

    def _facts(self, query: Query | None, hits: Hits, asked: Asked) -> list[str]:
        """Say what else is known of a sample that was clicked."""
        if query is None or query.row is None:
            return []
        facts = [self._crowding.describe(query.row)] if self._crowding is not None else []
        label = self._searched.label_of(query.row)
        if label and asked.label is None and len(hits.rows):
            labels = [self._searched.label_of(row) for row in hits.rows.tolist()]
            facts.append(f"{labels.count(label)} of {len(labels)} neighbours have its label")
        return [fact[0].upper() + fact[1:] + "." for fact in facts if fact]

    def _heading(self, query: Query | None, found: int, total: int) -> str:
        one, several = (
            ("text", "texts") if isinstance(self._searched.side, Texts) else ("image", "images")
        )
        kind = one if found == 1 else several
        if query is None:
            return f"{found:,} of {total:,} {several}, drawn at random"
        return f"The {found:,} {kind} {query.heading}" if found else f"No {one} was found"

    def _describe_search(self, asked: Asked, seconds: float) -> str:
        index = self._searched.index
        searched = len(index) if asked.label is None else self._searched.labels[asked.label][1]
        way = (
            "compared with all" if index.is_exact or asked.label is not None else "among the likely"
        )
        took = f"{way} {searched:,} in {1_000 * seconds:,.0f} ms"
        return f"with the cosine similarity of each; {took}"

    def _cards(self, hits: Hits, asked: Asked, with_similarity: bool) -> list[Card]:
        cards = [self._card(row, asked) for row in hits.rows.tolist()]
        if not with_similarity:
            return cards
        return [
            replace(card, note=f"{value:.3f}")
            for card, value in zip(cards, hits.similarity.tolist(), strict=True)
        ]

    def _card(self, row: int, asked: Asked, *, large: bool = False) -> Card:
        searched = self._searched
        sample = f"{int(searched.side.ids[row]):016x}"
        is_image = isinstance(searched.side, ImageSource)
        folder = "image" if large else "thumbnail"
        return Card(
            searched.name_of(row),
            Asked(like=sample, label=asked.label).address,
            picture=f"/{folder}/{sample}?{self._version}" if is_image else "",
            label=searched.label_of(row),
            captions=searched.captions_of(row),
        )

    @cached_property
    def _order(self) -> np.ndarray:
        """Return the rows in the order of their ids."""
        return np.argsort(self._searched.side.ids, kind="stable")
