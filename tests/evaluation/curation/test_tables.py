"""Findings survive a round trip through both formats, whatever the names are."""

import csv

import numpy as np
import pytest

from sogclr.data.image_source import ImageSource
from sogclr.data.pair_source import PairSource
from sogclr.data.texts import Texts
from sogclr.evaluation.curation.finding import Finding
from sogclr.evaluation.curation.tables import COLUMNS, write_findings

NAMES = ["=cmd|x.png", 'a "quoted", one.png', "two\nlines 📷.png", "bad\udce9.png", "plain.png"]
PLAIN = ["./=cmd|x.png", NAMES[1], NAMES[2], "bad\\udce9.png", NAMES[4]]


class Named(ImageSource):
    names = NAMES
    ids = np.array([0, 2**64 - 1, 5, 6, 7], dtype=np.uint64)

    def image(self, row):
        raise NotImplementedError

    def describe(self):
        return ""


def read(path):
    if path.suffix == ".csv":
        with path.open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))
    parquet = pytest.importorskip("pyarrow.parquet")
    return parquet.read_table(path).to_pylist()


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_findings_on_images(tmp_path, suffix):
    findings = [
        Finding("duplicate", row, 0.5 + row / 10, f"reason {row}", group=row, other=4 - row)
        for row in range(5)
    ]
    findings.append(Finding("label", 4, 1.0, "label", label="=cat", suggested="dog"))
    write_findings(tmp_path / f"list{suffix}", findings, Named())
    rows = read(tmp_path / f"list{suffix}")
    assert list(rows[0]) == list(COLUMNS)
    assert [row["path"] for row in rows] == [*PLAIN, PLAIN[4]]
    assert [row["similar_to"] for row in rows[:5]] == PLAIN[::-1]
    assert [int(row["id"]) for row in rows[:5]] == Named.ids.tolist()
    assert [float(row["score"]) for row in rows] == [finding.score for finding in findings]
    assert [int(row["group"]) for row in rows[:5]] == [0, 1, 2, 3, 4]
    assert not rows[5]["group"]
    assert rows[5]["label"].strip() == "=cat"
    assert not any(str(value).startswith("=") for row in rows for value in row.values()) or (
        suffix == ".parquet"
    )


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_findings_on_pairs(tmp_path, suffix):
    texts = Texts(["one", "two", "three"])
    source = PairSource(
        "pairs", ("image", "caption"), Named(), texts, np.arange(6), np.arange(5), []
    )
    findings = [
        Finding("caption", 4, 0.3, "reason", "a", text=2),
        Finding("outlier", 1, 0.2, "reason", "b"),
    ]
    write_findings(tmp_path / f"list{suffix}", findings, source)
    first, second = read(tmp_path / f"list{suffix}")
    assert (first["path"], first["text"]) == ("plain.png", "three")
    assert (second["path"], second["text"]) == ("", "two")
    assert int(second["id"]) == int(texts.ids[1])
