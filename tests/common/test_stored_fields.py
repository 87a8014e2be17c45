"""What JSON holds of a dataclass: its own fields, with values of their types."""

from dataclasses import asdict, dataclass
from typing import Literal

import pytest

from sogclr import UserError
from sogclr.common.stored_fields import build_from_json


@dataclass(frozen=True)
class Inner:
    size: int


@dataclass(frozen=True)
class Outer:
    inner: Inner
    kind: Literal["a", "b"] | None
    mean: tuple[float, ...]
    name: str | None = None


GOOD = {"inner": {"size": 3}, "kind": "a", "mean": [1, 0.5], "name": "x"}


def test_a_dataclass_is_what_was_stored():
    assert build_from_json(Outer, GOOD, "file") == Outer(Inner(3), "a", (1, 0.5), "x")
    assert build_from_json(Outer, asdict(Outer(Inner(3), None, ())), "file").name is None


@pytest.mark.parametrize(
    ("stored", "said"),
    [
        ({**GOOD, "code": "x"}, "file: 'code' is unknown"),
        ({**GOOD, "inner": {"size": 3, "path": "/"}}, "file: inner: 'path' is unknown"),
        ({k: v for k, v in GOOD.items() if k != "name"}, "file: 'name' is missing"),
        ({**GOOD, "inner": {}}, "file: inner: 'size' is missing"),
        ({**GOOD, "inner": 3}, "file: inner: must be an object, got 3"),
        ({**GOOD, "inner": {"size": "3"}}, "file: inner: size: str is not an instance of int"),
        ({**GOOD, "kind": "c"}, "file: kind: "),
        ({**GOOD, "mean": [1, "2"]}, "file: mean: "),
        ({**GOOD, "mean": 1}, "file: mean: "),
        ([], r"file: must be an object, got \[\]"),
        (None, "file: must be an object, got None"),
    ],
)
def test_anything_else_is_refused_in_one_line(stored, said):
    with pytest.raises(UserError, match=said) as error:
        build_from_json(Outer, stored, "file")
    assert "\n" not in error.value.args[0]
