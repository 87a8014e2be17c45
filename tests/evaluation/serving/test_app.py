"""The server of a search: what it finds, what it shows as text, and what it never sends."""

import html
import io
import re
from html.parser import HTMLParser
from urllib.parse import quote

import numpy as np
import pytest
import torch
from helpers.searching import HOSTILE, searchable_images, write_hostile_folder
from markupsafe import escape
from PIL import Image
from starlette.testclient import TestClient

import sogclr
from sogclr.evaluation.searching.exact_index import ExactIndex
from sogclr.evaluation.searching.searchable import Searchable, open_searchable
from sogclr.evaluation.serving import app as server
from sogclr.evaluation.serving import pictures, search_page
from sogclr.evaluation.serving.app import build_app
from sogclr.evaluation.serving.sample_crowding import SampleCrowding, read_crowding
from sogclr.runs.folder import Run
from sogclr.runs.stored_samples import read_samples


class _Page(HTMLParser):
    """The tags of a page, its cards, and its visible text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text, self.names, self.links = set(), [], [], []
        self.attributes, self.sentence = [], None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.attributes += [name for name, _ in attributes]
        values = dict(attributes)
        if tag == "img" and values["src"].startswith("/thumbnail/"):
            self.names.append(values["alt"])
        if values.get("name") == "text":
            self.sentence = values["value"]
        if tag == "a":
            self.links.append(values["href"])

    def handle_data(self, data):
        self.text.append(data)


def client_of(searchable: Searchable) -> TestClient:
    return TestClient(build_app(searchable, "<b>a run"), base_url="http://127.0.0.1:8000")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return searchable_images(write_hostile_folder(tmp_path_factory.mktemp("nasty") / "photos"))


@pytest.fixture(scope="module")
def client(images):
    return client_of(images)


@pytest.fixture(scope="module")
def on_pairs(trained, pairs):
    return open_searchable(trained, pairs, None, None, "cpu")


def sample(searchable, row):
    return f"{int(searchable.side.ids[row]):016x}"


def png(image):
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def ranked(searchable, query, rows=None):
    similarity = (
        torch.nn.functional.normalize(torch.tensor(searchable.index.vectors), dim=1) @ query
    )
    order = similarity.argsort(descending=True).tolist()
    return [searchable.name_of(row) for row in order if rows is None or row in rows]


def shown(names):
    """Names as a page shows them: line breaks and marks that reorder are written out."""
    return [name.replace("\n", r"\n").replace("\u202e", r"\u202e") for name in names]


def test_a_click_finds_the_neighbours_without_the_sample_itself(client, images):
    for row in (0, 7, 23):
        expected = ranked(images, torch.tensor(images.index.unit(row)))
        page = _Page(client.get(f"/?like={sample(images, row)}").text)
        assert expected[0] == images.name_of(row)
        assert page.names == shown(expected[1:])


def test_the_links_of_cards_lead_to_their_samples(client, images):
    page = _Page(client.get("/").text)
    assert sorted(page.names) == sorted(shown(images.side.names))
    links = [link for link in page.links if link.startswith("/?like=")]
    for name, link in zip(page.names, links, strict=True):
        assert escape(name) in client.get(link).text.split("<ul class=")[0]


def test_a_label_filters_what_is_drawn_and_what_is_found(client, images):
    for label, (name, count) in enumerate(images.labels):
        rows = images.rows_with(label).tolist()
        assert count == len(rows) == 6
        drawn = _Page(client.get(f"/?label={label}").text).names
        assert sorted(drawn) == sorted(shown([images.name_of(row) for row in rows]))
        expected = ranked(images, torch.tensor(images.index.unit(0)), set(rows) - {0})
        page = client.get(f"/?like={sample(images, 0)}&label={label}")
        assert _Page(page.text).names == shown(expected)
        assert f'<option value="{label}" selected>' in page.text
        assert escape(shown([name])[0]) in page.text


def test_names_are_shown_as_text(client, images):
    addresses = ["/", f"/?like={sample(images, 3)}", "/?label=1", f"/?like={quote(HOSTILE[0])}"]
    for address in addresses:
        page = client.get(address)
        content = _Page(page.text)
        assert content.tags <= {
            "html", "head", "meta", "title", "link", "script", "body", "header", "div", "a", "span",
            "form", "select", "option", "button", "label", "input", "p", "main", "section", "img",
            "h1", "ul", "li", "b", "noscript",
        }  # fmt: skip
        assert page.text.count("<script") == 1
        assert not [name for name in content.attributes if name.startswith("on") or name == "style"]
        assert "49" not in "".join(content.text).replace("{{ 7 * 7 }}", "")
        assert "<b>a run" not in page.text
        assert "\u202e" not in page.text


def test_hostile_sentences_are_shown_as_text(on_pairs):
    client = client_of(on_pairs)
    for text in HOSTILE:
        page = client.get("/", params={"text": text})
        assert page.status_code == 200
        assert page.text.count("<script") == 1
        assert not [n for n in _Page(page.text).attributes if n.startswith("on")]
        assert shown([" ".join(text.split())]) == [_Page(page.text).sentence]


def test_a_sentence_finds_images_with_their_captions(on_pairs):
    query = torch.tensor(on_pairs.encode_text("a red picture"))
    page = client_of(on_pairs).get("/", params={"text": "a red  picture"}).text
    assert _Page(page).names == ranked(on_pairs, query)
    for row in range(len(on_pairs.side)):
        assert on_pairs.captions_of(row)
        assert f">{on_pairs.captions_of(row)[0]}</p>" in page
    assert 'value="a red picture"' in page


def test_a_sentence_that_is_cut_is_said(on_pairs):
    client = client_of(on_pairs)
    assert "Only the first 16 of" in client.get("/", params={"text": "very " * 40}).text
    assert "Only the first" not in client.get("/", params={"text": "very red"}).text


def test_examples_are_captions_and_lead_to_what_they_find(on_pairs):
    client = client_of(on_pairs)
    page = client.get("/").text
    (box,) = re.findall(r'<p class="examples">(.*?)</p>', page, flags=re.DOTALL)
    links = re.findall(r'<a href="([^"]+)">([^<]+)</a>', box)
    assert len(links) == search_page.EXAMPLES
    for link, text in links:
        assert f'value="{text}"' in client.get(html.unescape(link)).text


def test_a_dropped_picture_is_found_first_and_shown(client, images):
    content = png(images.side.image(9))
    answer = client.post("/picture", content=content)
    address = answer.json()["address"]
    page = client.get(address).text
    query = torch.tensor(images.index.unit(9))
    assert _Page(page).names == shown(ranked(images, query))
    (picture,) = re.findall(r'src="(/dropped/[^"]+)"', page)
    sent = client.get(picture)
    assert sent.headers["content-type"] == "image/webp"
    with Image.open(io.BytesIO(sent.content)) as image:
        assert image.size == (60, 70)
    filtered = _Page(client.get(f"{address}&label=0").text).names
    assert len(filtered) == 6


def test_a_picture_is_decoded_as_everywhere(client, images):
    """Turned by its tag, on white, and without what is beside the pixels."""
    upright = images.side.image(5)
    buffer = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    upright.transpose(Image.Transpose.ROTATE_90).save(buffer, format="PNG", exif=exif)
    address = client.post("/picture", content=buffer.getvalue()).json()["address"]
    assert _Page(client.get(address).text).names[0] == shown([images.name_of(5)])[0]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0", "not an image"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not an image"),
        (png(Image.new("RGB", (40, 40)))[:60], "cannot be read"),
    ],
)
def test_what_is_no_picture_is_refused_with_the_reason(client, content, reason):
    answer = client.post("/picture", content=content)
    assert answer.status_code == 415
    assert reason in answer.json()["error"]


def test_a_picture_of_too_many_pixels_is_refused(client, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    answer = client.post("/picture", content=png(Image.new("RGB", (40, 40))))
    assert answer.status_code == 415
    assert "too many pixels" in answer.json()["error"]


def test_a_picture_of_too_many_bytes_is_refused(client, monkeypatch):
    monkeypatch.setattr(server, "MOST_BYTES", 1_000)
    assert client.post("/picture", content=bytes(1_001)).status_code == 413
    parts = (bytes(100) for _ in range(11))  # no length is told
    assert client.post("/picture", content=parts).status_code == 413
    small = png(Image.new("RGB", (8, 8)))
    assert len(small) <= 1_000
    assert client.post("/picture", content=small).status_code == 200


def test_old_pictures_are_forgotten(images, monkeypatch):
    monkeypatch.setattr(pictures, "KEPT", 3)
    client = client_of(images)
    posts = [client.post("/picture", content=png(images.side.image(row))) for row in range(5)]
    statuses = [client.get(post.json()["address"]).status_code for post in posts]
    assert statuses == [404, 404, 200, 200, 200]


@pytest.mark.parametrize(
    "address",
    [
        "/?like=0", "/?like=zz", "/?like=-1", "/?like=1" + 40 * "0", "/?picture=none",
        "/?label=99", "/?text=a+dog", "/?like=%00", "/?like=0x1%0a",
    ],
)  # fmt: skip
def test_addresses_that_lead_nowhere_say_so(client, address):
    page = client.get(address)
    assert page.status_code == 404
    (message,) = re.findall(r'<p id="message" role="alert">([^<]+)</p>', page.text)
    assert message.endswith(".")
    assert 'action="/"' in page.text


@pytest.mark.parametrize("count", ["-1", "0", "1", "7", "99999999999", "x", "1e3", "²"])
def test_any_count_is_answered(client, count):
    names = _Page(client.get("/", params={"count": count}).text).names
    assert len(names) == {"0": 1, "1": 1, "7": 7}.get(count, 24)


def test_more_are_shown_on_request(client):
    page = client.get("/?count=10").text
    assert 'href="/?count=20">Show more' in page
    assert "Show more" not in client.get("/?count=24").text


@pytest.mark.parametrize(
    "path",
    [
        "../settings.json", "..%2f..%2fetc%2fpasswd", "%2e%2e/%2e%2e/etc/passwd", "/etc/passwd",
        "photos/0.png", "search.html", "0", "ffffffffffffffff", "%00",
    ],
)  # fmt: skip
@pytest.mark.parametrize("folder", ["/", "/thumbnail/", "/image/", "/dropped/"])
def test_no_file_is_sent_by_its_path(client, folder, path):
    answer = client.get(folder + path, follow_redirects=False)
    assert answer.status_code in (404, 405)
    assert len(answer.content) < 100


def test_images_of_the_data_are_sent_in_two_sizes(tmp_path):
    (tmp_path / "photos").mkdir()
    pixels = np.zeros((900, 2_000, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photos" / "a.png")
    Image.new("RGB", (8, 6), "red").save(tmp_path / "photos" / "b.png")
    images = searchable_images(tmp_path / "photos")
    client, expected = client_of(images), {}
    for row, name in enumerate(images.side.names):
        for folder, side in (("thumbnail", 320), ("image", 1_024)):
            sent = client.get(f"/{folder}/{sample(images, row)}")
            with Image.open(io.BytesIO(sent.content)) as image:
                expected[name, folder] = image.size
                assert image.format == "WEBP"
                assert max(image.size) <= side
    assert expected["a.png", "thumbnail"] == (320, 144)
    assert expected["a.png", "image"] == (1_024, 461)
    assert expected["b.png", "thumbnail"] == expected["b.png", "image"] == (8, 6)


def test_images_that_are_gone_or_damaged_leave_the_page_whole(tmp_path):
    folder = write_hostile_folder(tmp_path / "photos", per_label=2)
    images = searchable_images(folder)
    (folder / images.side.names[0]).unlink()
    (folder / images.side.names[1]).write_bytes(b"damaged")
    client = client_of(images)
    assert len(_Page(client.get("/").text).names) == 8
    for row in (0, 1):
        assert client.get(f"/thumbnail/{sample(images, row)}").status_code == 404
        assert client.get(f"/?like={sample(images, row)}").status_code == 200


def test_a_sample_that_could_not_be_embedded_is_not_searched_for(images):
    vectors = images.index.vectors.copy()
    vectors[4] = np.nan
    damaged = Searchable(images.encoder, images.side, images.about, ExactIndex(vectors))
    client = client_of(damaged)
    assert "cannot be read." in client.get(f"/?like={sample(images, 4)}").text
    assert len(_Page(client.get(f"/?like={sample(images, 5)}").text).names) == 22


def test_of_two_texts_the_second_are_found(on_texts, sentences):
    searched = open_searchable(on_texts, None, None, None, "cpu")
    client = client_of(searched)
    page = client.get("/", params={"text": "a blue picture"}).text
    query = torch.tensor(searched.encode_text("a blue picture"))
    found = re.findall(r"<p>([^<]+)</p>", page)
    assert found == ranked(searched, query)
    row = 3
    page = client.get(f"/?like={sample(searched, row)}").text
    found = re.findall(r"<p>([^<]+)</p>", page)
    assert found == ranked(searched, torch.tensor(searched.index.unit(row)))[1:]
    assert client.post("/picture", content=png(Image.new("RGB", (9, 9)))).status_code == 415
    assert "type=file" not in page
    assert client.get(f"/image/{sample(searched, row)}").status_code == 404


def test_digits_are_shown_with_their_pixels(client):
    digits = np.zeros((5, 8, 8), dtype=np.uint8)
    page = client_of(searchable_images(digits)).get("/").text
    assert 'class="pixelated"' in page
    assert 'class="pixelated"' not in client.get("/").text


def test_a_clicked_sample_says_how_crowded_it_is_and_which_labels_its_neighbours_have(images):
    log_u = np.arange(24.0)
    log_u[3] = np.nan
    app = build_app(images, "run", crowding=SampleCrowding(log_u))
    client = TestClient(app, base_url="http://localhost")
    for row, share in ((0, "0%"), (23, "100%"), (12, "50%")):
        text = client.get(f"/?like={sample(images, row)}").text
        assert f"crowded than those of {share} of the other samples (log u {row:.2f})." in text
        found = ranked(images, torch.tensor(images.index.unit(row)))[1:]
        own = [n for n in found if n.split("/")[0] == images.name_of(row).split("/")[0]]
        assert f"{len(own)} of 23 neighbours have its label." in text
    text = client.get(f"/?like={sample(images, 3)}").text
    assert "crowded" not in text
    assert "have its label" not in client.get(f"/?like={sample(images, 3)}&label=0").text


def test_log_u_is_that_of_the_run(trained, on_pairs):
    stored = read_samples(Run(trained))["a"]
    crowding = read_crowding(Run(trained), on_pairs.side, of_pairs=True)
    for row in range(len(on_pairs.side)):
        (value,) = stored.log_u[stored.ids == on_pairs.side.ids[row]]
        assert f"(log u {value:.2f})" in crowding.describe(row)
    other = searchable_images(np.zeros((3, 8, 8), dtype=np.uint8)).side
    assert read_crowding(Run(trained), other, of_pairs=True) is None
    assert read_crowding(Run(trained.parent), on_pairs.side, of_pairs=True) is None


def test_nothing_is_fetched_from_elsewhere(client, images):
    sent = [client.get(address).text for address in ("/", "/search.css", "/search.js")]
    assert "{%" not in sent[1] + sent[2]
    assert "--accent" in sent[1]
    for text in sent:
        assert not re.findall(r"(?:https?:)?//[a-z]", text)


def test_the_run_of_the_page_is_named(client):
    assert "&lt;b&gt;a run" in client.get("/").text
    assert sogclr.serve.__name__ == "serve"


def test_a_page_without_results_says_why_and_how_to_go_on(client):
    for address in ("/?like=nothing", "/?label=99", "/?picture=gone"):
        page = client.get(address).text
        assert '<p id="message" role="alert">' in page
        assert '<a class="button" href="/">Start again</a>' in page
    assert "Start again" not in client.get("/").text
