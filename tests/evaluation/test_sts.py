"""STS is the rank correlation of cosine similarities with the scores of a table."""

import pytest
from helpers.small_tables import read_rows, write_table
from scipy.stats import spearmanr

import sogclr
from sogclr import UserError


def test_sts_is_the_rank_correlation_of_similarities(on_texts, sentences):
    model = sogclr.load(on_texts)
    table = read_rows(sentences)
    similarity = [
        float(model.encode_text([one])[0] @ model.encode_text([other])[0])
        for one, other, _ in table
    ]
    expected = spearmanr(similarity, [float(score) for *_, score in table]).statistic
    report = sogclr.evaluate(on_texts, sentences)
    assert report.sts.correlation == pytest.approx(expected, abs=1e-6)
    assert report.retrieval is None
    assert sogclr.evaluate(on_texts, sentences, protocol="retrieval").retrieval is not None


def test_sts_counts_equal_rows_and_leaves_empty_ones_out(on_texts, tmp_path):
    rows = [
        ("a red picture", "a red one", 3),
        ("a red picture", "a red one", 2),
        ("", "a blue one", 5),
        ("a green picture", "a blue one", 1),
        ("picture", "a very very blue one", 0),
    ]
    names = ("sentence1", "sentence2", "score")
    whole = sogclr.evaluate(on_texts, write_table(tmp_path / "whole.csv", rows, names))
    kept = [row for row in rows if row[0]]
    model = sogclr.load(on_texts)
    similarity = [float(model.encode_text([a])[0] @ model.encode_text([b])[0]) for a, b, _ in kept]
    expected = spearmanr(similarity, [score for *_, score in kept]).statistic
    assert whole.sts.correlation == pytest.approx(expected)


def test_the_text_tower_of_a_run_on_images_takes_sts_too(trained, sentences):
    assert -1 <= sogclr.evaluate(trained, sentences).sts.correlation <= 1


def test_sts_is_refused_for_images(trained, pairs):
    rows = [(*row, i) for i, row in enumerate(read_rows(pairs))]
    table = write_table(pairs.parent / "scored.csv", rows, ("image", "caption", "score"))
    with pytest.raises(UserError, match="holds images; sts is for two texts, try retrieval"):
        sogclr.evaluate(trained, table)
    assert sogclr.evaluate(trained, table, protocol="retrieval").retrieval is not None
