"""What a browser of embeddings shows: thumbnails, log u, neighbours and places of all sides."""

import io

import numpy as np
from PIL import Image

from sogclr.data.images.arrays import ArraySource
from sogclr.data.texts import Texts
from sogclr.evaluation.explorer import EmbeddedSide, explore
from sogclr.runs.stored_samples import StoredSamples

RNG = np.random.default_rng(0)
IMAGES = ArraySource(RNG.integers(0, 256, (20, 12, 12, 3), dtype=np.uint8))
TEXTS = Texts([f"text {i}" for i in range(9)])
VECTORS = RNG.normal(size=(14, 8)).astype(np.float32)


def sides():
    log_u = np.arange(20, dtype=np.float32)
    log_u[3] = -np.inf
    stored = StoredSamples(IMAGES.ids[::-1].copy(), log_u[::-1].copy())
    return [
        EmbeddedSide("a", IMAGES, np.array([0, 3, 7, 8, 19]), stored),
        EmbeddedSide("b", TEXTS, np.arange(9), StoredSamples(TEXTS.ids, None)),
    ]


def test_sides_stand_one_behind_the_other():
    found = explore(sides(), VECTORS)
    assert found.log_u[[0, 2, 3, 4]].tolist() == [0, 7, 8, 19]
    assert np.isnan(found.log_u[[1, *range(5, 14)]]).all()
    assert found.thumbnails[5:] == [None] * 9
    for file, row in zip(found.thumbnails[:5], [0, 3, 7, 8, 19], strict=True):
        shown = np.asarray(Image.open(io.BytesIO(file)))
        # A small image is enlarged without loss.
        places = (np.arange(112) * 12 // 112)[:, None], (np.arange(112) * 12 // 112)[None]
        middle = slice(4, 108, 9)
        expected = np.asarray(IMAGES.image(row))[places]
        assert np.array_equal(shown[middle, middle], expected[middle, middle])
    assert found.neighbours.index.shape == (14, 13)
    assert found.plane.places.shape == (14, 2)


def test_too_many_samples_are_said_and_log_u_stays():
    found = explore(sides(), VECTORS, most=13)
    assert (found.thumbnails, found.neighbours, found.plane) == (None, None, None)
    assert np.isfinite(found.log_u).sum() == 4
    assert "14 samples are more than 13" in found.notes[0]


def test_one_sample_and_vectors_of_length_0_are_no_error():
    one = explore([EmbeddedSide("a", IMAGES, np.array([2]))], VECTORS[:1])
    assert (one.log_u, one.neighbours, one.plane) == (None, None, None)
    assert len(one.thumbnails) == 1
    zeros = explore(sides(), np.zeros_like(VECTORS))
    assert np.isfinite(zeros.plane.places).all()
    assert np.isfinite(zeros.neighbours.similarity).all()
