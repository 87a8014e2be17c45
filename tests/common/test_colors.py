"""Every method has a colour, and methods of one picture have different ones."""

from typing import get_args

import pytest

from sogclr.common.colors import METHOD_COLORS
from sogclr.common.options import Method, PairMethod


@pytest.mark.parametrize("methods", [get_args(Method), get_args(PairMethod)])
def test_methods_are_told_apart_by_colour(methods):
    assert len({METHOD_COLORS[method] for method in methods}) == len(methods)
