"""Draw many cases, the same ones each time, check each of them, and count how they end."""

import faulthandler
import sys
import warnings
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

SEED = 15
# A case takes milliseconds. One that takes this long has no end, however slow the machine is.
SECONDS_OF_A_HANG = 600
# Fewer cases are a part of the usual tests; there, nothing is stopped.
MOST_USUAL_CASES = 100


def run_cases(check: Callable[..., str], cases: int, **strategies) -> Counter[str]:
    """Check drawn cases.

    Args:
        check: checks one case and names its end, such as "refused".
        cases: number of cases.
        strategies: what is drawn, by the names of the arguments of `check`.

    Returns:
        The number of cases by their end.
    """
    ends: Counter[str] = Counter()

    @seed(SEED)
    @settings(
        max_examples=cases,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(**strategies)
    def each(**drawn):
        if cases > MOST_USUAL_CASES:
            faulthandler.dump_traceback_later(SECONDS_OF_A_HANG, exit=True, file=sys.__stderr__)
        ends[check(**drawn)] += 1

    try:
        # Libraries warn of damage. A warning is no error in use, but it would be one in tests.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            each()
    finally:
        faulthandler.cancel_dump_traceback_later()
    assert ends.total() >= cases
    return ends


class Content(bytes):
    """The bytes of a file, which hypothesis prints in short."""

    def __repr__(self) -> str:
        return f"<{len(self):,} bytes>"


class Damage(NamedTuple):
    """A change of the bytes of a file.

    Attributes:
        kind: "cut", "set", "insert", "remove", "zero" or "repeat".
        place: where; beyond the end it counts from the start again.
        count: the number of bytes that are removed, zeroed or repeated.
        content: the bytes that are set or inserted.
    """

    kind: str
    place: int
    count: int
    content: bytes


KINDS = ("cut", "set", "insert", "remove", "zero", "repeat")
BYTES = st.binary(min_size=1, max_size=4)
PLACES = st.one_of(st.integers(0, 80), st.integers(0, 1 << 20))


def draw_damages(
    kinds: tuple[str, ...] = KINDS, content: st.SearchStrategy[bytes] = BYTES
) -> st.SearchStrategy[list[Damage]]:
    """Make the strategy of one to four damages."""
    counts = st.one_of(st.integers(1, 40), st.just(512))
    one = st.builds(Damage, st.sampled_from(kinds), PLACES, counts, content)
    return st.lists(one, min_size=1, max_size=4)


def damage(content: bytes, damages: list[Damage], first: int = 0) -> bytes:
    """Change the bytes behind the first ones."""
    file = bytearray(content)
    for kind, place, count, new in damages:
        place = first + place % max(1, len(file) - first)
        if kind == "cut":
            del file[place:]
        elif kind == "set":
            file[place : place + len(new)] = new
        elif kind == "insert":
            file[place:place] = new
        elif kind == "remove":
            del file[place : place + count]
        elif kind == "zero":
            file[place : place + count] = bytes(len(file[place : place + count]))
        else:
            file[place:place] = file[place : place + count]
    return bytes(file)


def require_one_line(message: str) -> None:
    """Require a message that says something, in one line that a terminal can show."""
    assert message.strip()
    assert len(message.splitlines()) == 1, message
    assert "Traceback" not in message
