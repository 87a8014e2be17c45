import statistics

import numpy as np
import pytest
import torch

from sogclr.data.open_pairs import open_pairs
from sogclr.evaluation.retrieval import rank_first_match, retrieval


def _source(n_a, captions, seed=0):
    """Make n_a samples with one to `captions` texts each; two samples share some texts."""
    g = np.random.default_rng(seed)
    one, two = [], []
    for i in range(n_a):
        for k in range(g.integers(1, captions + 1)):
            one.append(f"a{i}")
            two.append("shared" if i in (1, 2) and k == 0 else f"b{i}.{k}")
    return open_pairs({"text1": one, "text2": two})


def _ranks_by_loops(a, b, source, rows):
    """Rank the best text of every sample, and the sample of every text, by loops."""
    unit = lambda v: v / np.linalg.norm(v)  # noqa: E731 (reads as math)
    rows = [i for i in rows if not np.isnan(a[i]).any()]
    pairs = [(i, j) for i in rows for j in source.partners[source.start[i] : source.start[i + 1]]]
    a_ranks, b_ranks = [], []
    for i in rows:
        scored = [(float(unit(a[i]) @ unit(b[j])), owner == i) for owner, j in pairs]
        best = max(s for s, own in scored if own)
        a_ranks.append(1 + sum(s >= best and not own for s, own in scored))
    for owner, j in pairs:
        own = float(unit(b[j]) @ unit(a[owner]))
        b_ranks.append(1 + sum(float(unit(b[j]) @ unit(a[i])) >= own for i in rows if i != owner))
    return a_ranks, b_ranks


def _check(direction, ranks):
    assert direction.queries == len(ranks)
    assert direction.median_rank == statistics.median(ranks)
    for k in (1, 5, 10):
        assert direction.recall[k] == pytest.approx(sum(r <= k for r in ranks) / len(ranks))


def _embedded(source, seed=0, noise=0.8):
    """Draw texts so far from their sample that some are not retrieved first."""
    g = np.random.default_rng(seed)
    a = g.standard_normal((len(source.a), 8))
    b = g.standard_normal((len(source.b), 8)) * noise
    b[source.partners] += a[source.owners()]
    return a, b


@pytest.mark.parametrize("captions", [1, 3])
def test_agrees_with_explicit_loops(captions):
    source = _source(30, captions)
    a, b = _embedded(source)
    found = retrieval(a, b, source)
    a_ranks, b_ranks = _ranks_by_loops(a, b, source, range(30))
    _check(found.a_to_b, a_ranks)
    _check(found.b_to_a, b_ranks)
    assert 0 < found.a_to_b.recall[1] < 1
    recalls = [r <= k for k in (1, 5, 10) for r in a_ranks]
    more = [r <= k for k in (1, 5, 10) for r in b_ranks]
    assert found.total == pytest.approx(100 * 3 * (np.mean(recalls) + np.mean(more)))


def test_rows_that_are_unreadable_or_not_asked_for_are_neither_queries_nor_found():
    source = _source(30, 3)
    a, b = _embedded(source)
    a[[4, 9]] = np.nan
    b[source.partners[source.start[4]]] = np.nan  # none of its texts could be embedded
    rows = np.arange(0, 25)
    found = retrieval(a, b, source, rows)
    a_ranks, b_ranks = _ranks_by_loops(a, b, source, rows)
    assert len(a_ranks) == 23
    _check(found.a_to_b, a_ranks)
    _check(found.b_to_a, b_ranks)
    among_all = retrieval(np.nan_to_num(a, nan=0.1), np.nan_to_num(b, nan=0.1), source)
    assert among_all.b_to_a.queries > found.b_to_a.queries


def test_a_text_that_is_unreadable_might_as_well_not_be_there():
    source = open_pairs({"text1": ["x", "x", "y", "z"], "text2": ["x1", "x2", "y1", "z1"]})
    without = open_pairs({"text1": ["x", "y", "z"], "text2": ["x2", "y1", "z1"]})
    a, b = _embedded(source)
    b[0] = np.nan
    assert retrieval(a, b, source) == retrieval(a, b[1:], without)


def test_any_of_an_images_captions_counts_and_the_others_are_no_rivals():
    source = open_pairs({"text1": ["x", "x", "y"], "text2": ["x1", "x2", "y1"]})
    a = np.array([[1.0, 0.0], [0.0, 1.0]])
    b = np.array([[-1.0, 0.1], [1.0, 0.1], [0.4, 0.6]])
    found = retrieval(a, b, source)
    assert found.a_to_b.recall[1] == 1
    assert found.b_to_a.recall[1] == pytest.approx(2 / 3)  # the first caption of x is far from x


def test_a_collapsed_encoder_finds_nothing():
    source = _source(40, 1)
    ones = np.ones((40, 4))
    found = retrieval(ones, ones[: len(source.b)], source)
    assert found.total == 0
    assert found.a_to_b.median_rank == 40


def test_a_perfect_encoder_finds_everything_beyond_the_first_block():
    names = [str(i) for i in range(1100)]
    source = open_pairs({"text1": names, "text2": names})
    a = np.random.default_rng(0).standard_normal((1100, 16))
    found = retrieval(a, 3 * a, source)
    assert found.total == pytest.approx(600)
    assert found.a_to_b.median_rank == found.b_to_a.median_rank == 1


def test_ranks_count_from_one_and_ties_count_against():
    queries = torch.eye(2)
    items = torch.tensor([[1.0, 0.0], [0.8, 0.6], [1.0, 0.0], [0.0, 1.0]])
    ranks = rank_first_match(queries, items, torch.tensor([0, 1]), torch.tensor([0, 1, 2, 1]))
    assert ranks.tolist() == [2, 1]
    ranks = rank_first_match(queries, items, torch.tensor([3, 1]), torch.tensor([0, 1, 2, 3]))
    assert ranks.tolist() == [4, 2]


def test_the_median_of_an_even_number_of_ranks_is_halfway():
    source = open_pairs({"text1": ["x", "y"], "text2": ["x1", "y1"]})
    found = retrieval(
        np.array([[1.0, 0.0], [0.8, 0.6]]), np.array([[1.0, 0.0], [0.0, 1.0]]), source
    )
    assert found.a_to_b.median_rank == 1.5
    assert found.b_to_a.median_rank == 1
