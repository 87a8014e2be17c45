"""Retrieval of a run on pairs equals a computation by explicit loops."""

import numpy as np
import pytest
from helpers.pictures import encode_pictures
from helpers.small_tables import read_rows

import sogclr


def test_retrieval_is_counted_from_images_and_captions_one_by_one(trained, pairs):
    model, rows = sogclr.load(trained), read_rows(pairs)
    names = list(dict.fromkeys(name for name, _ in rows))
    images = encode_pictures(model, pairs.parent, names)
    texts = model.encode_text([text for _, text in rows])
    owner = [names.index(name) for name, _ in rows]
    similarity = (images @ texts.T).numpy()
    image_ranks = []
    for i in range(len(names)):
        best = max(similarity[i, j] for j in range(len(rows)) if owner[j] == i)
        others = [similarity[i, j] for j in range(len(rows)) if owner[j] != i]
        image_ranks.append(1 + sum(value >= best for value in others))
    text_ranks = []
    for j in range(len(rows)):
        others = [similarity[i, j] for i in range(len(names)) if i != owner[j]]
        text_ranks.append(1 + sum(value >= similarity[owner[j], j] for value in others))

    found = sogclr.evaluate(trained, pairs).retrieval
    for direction, ranks in ((found.a_to_b, image_ranks), (found.b_to_a, text_ranks)):
        assert direction.queries == len(ranks)
        assert direction.median_rank == np.median(ranks)
        for k in (1, 5, 10):
            assert direction.recall[k] == pytest.approx(np.mean(np.array(ranks) <= k))
    both = (*found.a_to_b.recall.values(), *found.b_to_a.recall.values())
    assert found.total == pytest.approx(100 * sum(both))
