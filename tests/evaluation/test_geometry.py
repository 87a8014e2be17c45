import math

import pytest
import torch
from torch.nn.functional import normalize

from sogclr.evaluation.geometry import alignment, uniformity


def test_agree_with_explicit_loops():
    g = torch.Generator().manual_seed(0)
    a, b = torch.randn(6, 3, generator=g), torch.randn(6, 3, generator=g)
    u, v = normalize(a).tolist(), normalize(b).tolist()
    square = lambda p, q: sum((x - y) ** 2 for x, y in zip(p, q, strict=True))  # noqa: E731
    expected = sum(square(p, q) for p, q in zip(u, v, strict=True)) / 6
    assert float(alignment(a, b)) == pytest.approx(expected, rel=1e-5)
    pairs = [math.exp(-2 * square(u[i], u[j])) for i in range(6) for j in range(i)]
    assert float(uniformity(a)) == pytest.approx(math.log(sum(pairs) / len(pairs)), rel=1e-5)


def test_ends_of_their_ranges():
    a = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    assert float(alignment(a, 7 * a)) == pytest.approx(0, abs=1e-6)
    assert float(alignment(a, -a)) == pytest.approx(4)
    assert float(uniformity(a[:1].expand(4, 3))) == pytest.approx(0, abs=1e-5)
    assert float(uniformity(torch.tensor([[1.0, 0], [-1, 0]]))) == pytest.approx(-8)
