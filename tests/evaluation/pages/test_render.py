"""The page: whatever came with the data is text, and nothing is fetched or run."""

import html
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pytest

from sogclr.common.colors import METHOD_COLORS
from sogclr.data.images.arrays import ArraySource
from sogclr.evaluation.pages import curves
from sogclr.evaluation.pages.charts import (
    CLASS_COLORS,
    Line,
    draw_histogram,
    draw_lines,
    draw_points,
)
from sogclr.evaluation.pages.page import (
    Code,
    Facts,
    Gallery,
    Legend,
    Picture,
    Pictures,
    Section,
    Table,
    Text,
    Thumbnail,
    Tile,
    group_by_reason,
)
from sogclr.evaluation.pages.render import render_page, write_page
from sogclr.evaluation.pages.thumbnails import make_thumbnail

HOSTILE = [
    "<script>alert(1)</script>",
    '"><svg onload=alert(2)>',
    "' onerror='alert(3)",
    "</style></title><script>alert(4)</script>",
    "{{ 7 * 7 }}{% raw %}",
    "javascript:alert(5)",
    "[bold]brackets[/bold] & ampersand &lt;",
    "emoji 📷🙈",
]


class Seen(HTMLParser):
    """Collects the tags, attributes and texts of a page."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.attributes, self.texts = set(), [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_data(self, data):
        self.texts.append(data)


def page_with(text):
    """A page with a text in every place where a text may be."""
    thumbnail = make_thumbnail(ArraySource(np.zeros((1, 8, 8), dtype=np.uint8)), 0)
    tiles = [
        Tile(text, thumbnail, text, "good"),
        Tile(text, None, text),
        Tile(text, Thumbnail(None, text), text, "lead"),
    ]
    blocks = [
        Text(text),
        Facts([(text, text, text)]),
        Table([text, text], [[text, text]], text),
        Table([text, text], [[text, text]], text, shades=[[0.0, 0.5]], numeric=False),
        Pictures([Picture(text, draw_lines([Line([1], [2], "#123456")], "y"), text, text)]),
        Legend([("#123456", text)]),
        Gallery([(text, tiles)], text),
        Code([text, text]),
    ]
    return render_page(text, [Section("One", blocks), Section("Two", missing=text)])


@pytest.mark.parametrize("text", HOSTILE)
def test_texts_of_strangers_are_shown_as_text(text):
    plain, seen = Seen(page_with("x")), Seen(page_with(text))
    assert seen.tags == plain.tags
    assert "script" not in seen.tags
    names = [(tag, name) for tag, name, _ in seen.attributes]
    assert names == [(tag, name) for tag, name, _ in plain.attributes]
    assert sum(text in part for part in seen.texts) >= 15
    assert sum(value == text for _, name, value in seen.attributes if name in ("alt", "title")) >= 2
    assert text not in page_with(text) or html.escape(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [("one\ntwo", r"one\ntwo"), ("\x1b[31m", r"\x1b[31m"), ("caf\udce9", r"caf\udce9")],
)
def test_what_no_browser_should_obey_is_escaped(tmp_path, text, shown):
    page = page_with(text)
    assert shown in page
    assert text not in page
    written = write_page(tmp_path / "page.html", text, [Section("One", [Text(text)])])
    assert shown in written.file.read_text(encoding="utf-8")


def test_nothing_is_fetched():
    for _, name, value in Seen(page_with("x")).attributes:
        if name in ("src", "href", "xlink:href"):
            assert value.startswith(("data:image/", "#"))
        assert not name.startswith("on")
    assert "default-src 'none'" in page_with("x")


def test_every_picture_has_an_alternative_text():
    page = page_with("what is seen")
    pictures = [each for each in Seen(page).attributes if each[1] in ("alt", "aria-label")]
    assert len([tag for tag, *_ in pictures if tag == "img"]) == 1
    assert all(value for *_, value in pictures)
    assert page.count("<img") + page.count('role="img"') == 3


def test_a_missing_picture_leaves_a_placeholder():
    tile = Tile("a", Thumbnail(None, "gone"))
    page = render_page("t", [Section("One", [Gallery([("", [tile])])])])
    assert 'class="placeholder"' in page
    assert "gone" in page
    assert "<img" not in page


def test_what_is_left_out_is_said(tmp_path):
    sections = [Section("One", [Text("a")]), Section("Two", missing="no data")]
    page = write_page(tmp_path / "page.html", "t", sections)
    assert page.shown == ["One"]
    assert page.left_out == {"Two": "no data"}
    assert "no data" in page.file.read_text()


@pytest.mark.parametrize(
    "draw",
    [
        lambda: draw_lines([Line([1, 2], [3, 1], "#123456", "name")], "y", zero=True),
        lambda: draw_histogram(np.arange(50.0), "x", "y", "#123456"),
        lambda: draw_points(np.eye(3, 2), colors=list(CLASS_COLORS[:3])),
        lambda: draw_points(np.eye(3, 2), values=np.arange(3.0)),
    ],
)
def test_charts_take_the_colour_of_the_page_and_are_equal_each_time(draw):
    import xml.etree.ElementTree as ElementTree

    svg = draw()
    root = ElementTree.fromstring(svg)
    assert "viewBox" in root.attrib
    assert "width" not in root.attrib
    assert "#010203" not in svg
    assert "#000000" not in svg
    assert ("currentColor" in svg) == ("<text" in svg)
    assert draw() == svg


def test_sections_that_are_missing_for_one_reason_share_a_line():
    missing = {"One": "no data", "Two": "no labels", "Three": "no data"}
    assert group_by_reason(missing) == [("One, Three", "no data"), ("Two", "no labels")]


@pytest.mark.parametrize("method", ["sogclr", "simclr", "moco"])
def test_the_curves_of_a_run_have_the_colour_of_its_method(method, monkeypatch):
    metrics = [{"epoch": e, "knn": 0.5, "objective": 1.0, "alignment": 0.3} for e in (1.0, 2.0)]
    drawn = []
    monkeypatch.setattr(curves, "draw_lines", lambda lines, *_, **__: drawn.extend(lines))
    record = SimpleNamespace(
        metrics=metrics,
        settings=SimpleNamespace(method=method),
        curve=lambda name: (
            [row["epoch"] for row in metrics if name in row],
            [row[name] for row in metrics if name in row],
        ),
    )
    curves.curves_section(record)
    assert len(drawn) == 3
    assert {line.color for line in drawn} == {METHOD_COLORS[method]}
