"""Read what the address of a page asks for, and write the address that asks for it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from ...data.texts import tidy

__all__ = ["MOST", "Asked"]

COUNT, MOST = 48, 960  # samples on a page at first, and at most
LONGEST = 2_000  # characters of a sentence


@dataclass(frozen=True)
class Asked:
    """The parameters of an address; the first of three that is not "" is searched for.

    Attributes:
        text: a sentence.
        picture: name of a picture that was dropped in.
        like: id of a sample, as hexadecimal number.
        label: label that the samples must have; None for all.
        count: number of samples.
    """

    text: str = ""
    picture: str = ""
    like: str = ""
    label: int | None = None
    count: int = COUNT

    @classmethod
    def read(cls, parameters: Mapping[str, str]) -> "Asked":
        """Read the parameters of an address; what is no number counts as left out."""
        label, count = (parameters.get(name, "") for name in ("label", "count"))
        return cls(
            text=tidy(parameters.get("text", "")[:LONGEST]),
            picture=parameters.get("picture", ""),
            like=parameters.get("like", ""),
            label=int(label) if _is_number(label) else None,
            count=min(MOST, max(1, int(count))) if _is_number(count) else COUNT,
        )

    @property
    def address(self) -> str:
        """Return the address that asks for this."""
        name = next((n for n in ("text", "picture", "like") if getattr(self, n)), None)
        asked: dict[str, Any] = {name: getattr(self, name)} if name else {}
        if self.label is not None:
            asked["label"] = self.label
        if self.count != COUNT:
            asked["count"] = self.count
        return f"/?{urlencode(asked)}" if asked else "/"


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) < 10
