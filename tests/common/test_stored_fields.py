"""What JSON holds of a dataclass: its own fields, with values of their types."""

from dataclasses import asdict, dataclass
from typing import Any, Literal, TypedDict

import pytest

from sogclr import UserError
from sogclr.common.stored_fields import build_from_json, require_type


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
        ({**GOOD, "inner": {"size": True}}, "file: inner: size: a number is needed, got True"),
        ({**GOOD, "mean": [0.5, False]}, r"file: mean: a number is needed, got \(0.5, False\)"),
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


class Options(TypedDict, total=False):
    layers: int | list[int]
    rate: float | None
    is_wide: bool
    other: Any


@pytest.mark.parametrize(
    "value",
    [{"layers": True}, {"layers": [1, False]}, {"rate": False}, {"is_wide": True, "rate": True}],
)
def test_truth_is_no_number(value):
    with pytest.raises(UserError, match=r"^file: a number is needed, got "):
        require_type(value, Options, "file")


@pytest.mark.parametrize(
    "value", [{"is_wide": True}, {"other": [True]}, {"layers": [0, 1], "rate": None}, {}]
)
def test_truth_is_accepted_where_it_is_meant(value):
    require_type(value, Options, "file")
    require_type([True, None], list[bool | None], "file")
    require_type(True, Literal[True], "file")
