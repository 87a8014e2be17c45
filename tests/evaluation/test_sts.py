"""STS is the rank correlation of cosine similarities with the scores of a table."""

import json

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


@pytest.mark.parametrize("score", ["nan", "inf", "", "high", "4,5", "null"])
def test_a_score_that_is_no_number_is_named(on_texts, tmp_path, score):
    rows = [("a red picture", "a red one", 3), ("a blue one", "a red one", score)]
    table = write_table(tmp_path / "t.csv", rows, ("sentence1", "sentence2", "score"))
    with pytest.raises(UserError, match=r"the score in row 3 of .* is not a number"):
        sogclr.evaluate(on_texts, table)


def test_rows_that_sts_leaves_out_are_said(on_texts, tmp_path, capsys):
    rows = [{"text1": f"picture {i}", "text2": f"a {i}", "score": i} for i in range(6)]
    rows[2]["text2"] = None
    lines = list(map(json.dumps, rows))
    lines[4] = "{"
    (tmp_path / "t.jsonl").write_text("\n".join(lines))
    assert sogclr.evaluate(on_texts, tmp_path / "t.jsonl").sts.pairs == 4
    assert "2 rows left out (the first: row 3, no two sentences)" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["cut emoji \ud83d", "\udc00", "\ud800 picture \udfff"])
def test_halves_of_characters_are_no_traceback(on_texts, tmp_path, text):
    rows = [{"text1": f"picture {i}", "text2": f"a {i}", "score": i} for i in range(5)]
    rows[1]["text1"] = text
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert sogclr.evaluate(on_texts, tmp_path / "t.jsonl").sts.pairs == 5
    assert sogclr.evaluate(on_texts, tmp_path / "t.jsonl", protocol="retrieval").retrieval
