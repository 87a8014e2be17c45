"""The page in headless Chromium: type, see, click, drop, filter, and go back."""

import os
import re
import shutil
import socket
import threading
from contextlib import contextmanager

import pytest
from helpers.searching import searchable_images

from sogclr.common.printable import printable
from sogclr.evaluation.searching.searchable import open_searchable
from sogclr.evaluation.serving.app import build_app

pytestmark = pytest.mark.slow
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")

DROP = """async ([bytes, name]) => {
  const file = new File([new Uint8Array(bytes)], name);
  const transfer = new DataTransfer();
  transfer.items.add(file);
  const settings = {dataTransfer: transfer, bubbles: true, cancelable: true};
  for (const kind of ["dragover", "drop"]) document.dispatchEvent(new DragEvent(kind, settings));
}"""


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright, 160 MB")
    found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    with playwright.sync_playwright() as started:
        try:
            browser = started.chromium.launch(executable_path=found, args=["--no-sandbox"])
        except playwright.Error as error:
            pytest.skip(f"no browser: {str(error).splitlines()[0]}; install chromium")
        yield browser
        browser.close()


@contextmanager
def served(searchable):
    """The address of a server in this process."""
    import uvicorn

    listening = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(build_app(searchable, "run"), log_level="warning")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


@contextmanager
def page_of(browser, searchable, **settings):
    """A page whose scripts and addresses all work, and its start."""
    wrong = []
    with served(searchable) as address:
        page = browser.new_page(**settings)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda message: wrong.append(message.text))
        page.on(
            "request",
            lambda request: request.url.startswith((address, "data:")) or wrong.append(request.url),
        )
        page.on("dialog", lambda dialog: wrong.append(dialog.message))
        page.goto(address)
        yield page
        page.close()
    assert not [message for message in wrong if "415" not in message]  # a picture was refused


def names(page):
    page.wait_for_load_state("networkidle")
    return [image.get_attribute("alt") for image in page.locator(".cards img").all()]


def nearest(searchable, vector, **settings):
    hits = searchable.nearest(vector, 48, **settings)
    return [printable(searchable.name_of(row)) for row in hits.rows.tolist()]


def test_type_see_and_click(browser, trained, pairs):
    searchable = open_searchable(trained, pairs, None, None, "cpu")
    with page_of(browser, searchable) as page:
        page.get_by_role("searchbox").fill("a red picture")
        page.keyboard.press("Enter")
        page.wait_for_url("**/?text=a+red+picture*")
        found = names(page)
        assert found == nearest(searchable, searchable.encode_text("a red picture"))
        for image in page.locator(".cards img").all()[:6]:
            assert image.evaluate("image => image.complete && image.naturalWidth") == 24
        page.locator(".cards a").nth(2).click()
        page.wait_for_url("**/?like=*")
        row = list(searchable.side.names).index(found[2])
        assert names(page) == nearest(searchable, searchable.index.unit(row), without=row)
        assert page.locator(".query img").evaluate("image => image.naturalWidth") == 24
        assert page.locator(".query li").all_inner_texts() == searchable.captions_of(row)
        page.go_back()
        assert names(page) == found
        page.locator(".home").click()
        page.locator(".examples a").first.click()
        page.wait_for_url("**/?text=*")
        assert "nearest to" in page.locator("h1").inner_text()


@pytest.fixture
def images(make_folder):
    return searchable_images(make_folder(classes=("blue", "<i>red", "two\nlines"), size=(60, 70)))


def test_drop_choose_and_filter(browser, images):
    row = 5
    file = images.side._root / images.side.names[row]
    expected = nearest(images, images.index.unit(row))
    with page_of(browser, images) as page:
        page.evaluate(DROP, [list(file.read_bytes()), "x.png"])
        page.wait_for_url("**/?picture=*")
        assert names(page) == expected
        assert page.locator(".query img").evaluate("image => image.naturalWidth") == 60
        page.get_by_label("Label").select_option(index=2)
        page.wait_for_url("**label=1*")
        assert names(page) == nearest(images, images.index.unit(row), label=1)
        assert page.get_by_label("Label").evaluate("e => e.selectedOptions[0].text") == "blue (8)"
        page.locator("input[type=file]").set_input_files(str(file))
        page.wait_for_function("() => !document.body.classList.contains('busy')")
        page.wait_for_url("**label=1*")
        assert names(page) == nearest(images, images.index.unit(row), label=1)


def test_what_is_no_picture_is_said_and_the_page_stays(browser, images):
    with page_of(browser, images) as page:
        before = names(page)
        page.evaluate(DROP, [list(b"no picture"), "x.png"])
        message = page.locator("#message")
        message.wait_for(state="visible")
        assert "This cannot be read: not an image" in message.inner_text()
        assert names(page) == before


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1400])
def test_nothing_is_wider_than_the_window(browser, images, width, scheme):
    window = {"width": width, "height": 900}
    with page_of(browser, images, viewport=window, color_scheme=scheme) as page:
        page.locator(".cards a").first.click()
        page.wait_for_url("**/?like=*")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        colours = [
            page.evaluate(f"getComputedStyle(document.body).{name}")
            for name in ("backgroundColor", "color")
        ]
        paper, ink = (sum(map(int, re.findall(r"\d+", colour))) for colour in colours)
        assert (paper > ink) == (scheme == "light")
