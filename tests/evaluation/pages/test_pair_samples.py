"""Pairs that are looked at: cached features give the same vectors, partners stay together."""

import numpy as np
import pytest
import torch

from sogclr.data.open_pairs import open_pairs
from sogclr.evaluation.pages.pair_samples import embed_pair_samples, embed_side_samples
from sogclr.evaluation.retrieval import retrieval
from sogclr.models.tower_features import cached_features, find_cached_features
from sogclr.runs.towers import load_pairs


def test_cached_features_give_the_vectors_of_the_towers(joined, pairs):
    encoder, source = load_pairs(joined), open_pairs(pairs)
    rows = np.array([3, 0, 17, 5])
    for kind, side in (("image", source.a), ("text", source.b)):
        body = encoder.towers[kind].body
        asked = body, kind, side, encoder.spec, encoder.tokenizer
        assert find_cached_features(*asked) is None
        plain = embed_side_samples(encoder, side, None, rows)
        cached_features(*asked, torch.device("cpu"))
        assert find_cached_features(*asked) is not None
        cached = embed_side_samples(encoder, side, None, rows)
        assert plain.rows.tolist() == cached.rows.tolist() == [0, 3, 5, 17]
        np.testing.assert_allclose(cached.vectors, plain.vectors, atol=1e-4)


@pytest.mark.parametrize("most", [1_000, 40])
def test_samples_keep_all_their_partners(trained, pairs, most):
    encoder, source = load_pairs(trained), open_pairs(pairs)
    found = embed_pair_samples(encoder, source, {}, most=most)
    assert len(found.a) == min(24, most // 4)
    shown = [
        (int(found.a.rows[owner]), int(found.b.rows[partner]))
        for owner, partner in zip(found.owner, found.partner, strict=True)
    ]
    every = zip(source.owners().tolist(), source.partners.tolist(), strict=True)
    assert sorted(shown) == sorted(pair for pair in every if pair[0] in found.a.rows)
    a = np.full((len(source.a), found.a.vectors.shape[1]), np.nan, dtype=np.float32)
    b = np.full((len(source.b), a.shape[1]), np.nan, dtype=np.float32)
    a[found.a.rows], b[found.b.rows] = found.a.vectors, found.b.vectors
    measured = retrieval(a, b, source, found.a.rows)
    for ranks, direction in zip(found.ranks, (measured.a_to_b, measured.b_to_a), strict=True):
        assert float((ranks <= 1).mean()) == pytest.approx(direction.recall[1])
        assert float(np.median(ranks)) == direction.median_rank
