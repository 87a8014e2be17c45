"""The documentation site: it is built strictly, complete, and needs no network."""

import re
import shutil
import subprocess
import sys
import tomllib
from html.parser import HTMLParser
from pathlib import Path

import pytest

import sogclr
from sogclr.commands.arguments import arguments_of
from sogclr.commands.cli import COMMANDS
from sogclr.common.errors import flag

ROOT = Path(__file__).parents[1]
LINK = re.compile(r"\]\(([^)\s]+)\)")


def build(folder: Path) -> subprocess.CompletedProcess:
    # A process of its own, in the folder that the configuration's paths are relative to.
    command = [sys.executable, "-m", "zensical", "build", "--strict"]
    environment = {"PATH": "", "PYTHONPATH": str(ROOT / "src"), "NO_COLOR": "1"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def copy_sources(folder: Path) -> Path:
    """Copy what the site is built from, so that no build writes into the checkout."""
    for name in ("README.md", "CONTRIBUTING.md", "zensical.toml"):
        shutil.copy(ROOT / name, folder)
    shutil.copytree(ROOT / "docs", folder / "docs")
    (folder / "src").symlink_to(ROOT / "src")
    return folder


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    pytest.importorskip("zensical")
    folder = copy_sources(tmp_path_factory.mktemp("site"))
    built = build(folder)
    assert built.returncode == 0, built.stdout + built.stderr
    return folder / "build" / "site"


def pages_of(entries) -> list[str]:
    """List the files of the navigation, which is nested."""
    if isinstance(entries, str):
        return [entries]
    children = entries.values() if isinstance(entries, dict) else entries
    return [page for child in children for page in pages_of(child)]


def test_every_page_is_in_the_navigation(site):
    nav = pages_of(tomllib.loads((ROOT / "zensical.toml").read_text())["project"]["nav"])
    assert sorted(nav) == sorted(path.name for path in (ROOT / "docs").glob("*.md"))
    assert all((site / page).with_suffix(".html").is_file() for page in nav)


class Fetched(HTMLParser):
    """The addresses that a browser fetches by itself; a link is not one."""

    def __init__(self):
        super().__init__()
        self.addresses = []

    def handle_starttag(self, tag, attrs):
        named = dict(attrs)
        if tag == "link" and named.get("rel") not in ("canonical", "next", "prev"):
            self.addresses.append(named.get("href"))
        elif tag != "a":
            self.addresses += [named[name] for name in ("src", "srcset", "data") if name in named]


def test_nothing_is_fetched_from_elsewhere(site):
    parser = Fetched()
    for page in site.rglob("*.html"):
        parser.feed(page.read_text())
    styles = "".join(path.read_text() for path in site.rglob("*.css"))
    addresses = parser.addresses + re.findall(r"(?:url\(|@import)\s*[\"']?([^\"')]+)", styles)
    assert len(addresses) > 100
    outside = re.compile(r"(?i)(https?:)?//")
    assert not {address for address in addresses if address and outside.match(address)}


def test_public_names_are_in_the_reference(site):
    text = "".join(page.read_text() for page in site.glob("reference_*.html"))
    assert not {name for name in sogclr.__all__ if f'id="sogclr.{name}"' not in text}


def test_all_options_are_in_the_reference(site):
    page = (site / "reference_commands.html").read_text()
    assert "Traceback" not in page
    for name, command in COMMANDS.items():
        section = page.partition(f'id="sogclr-{name}"')[2].partition('<h2 id="')[0]
        for argument in arguments_of(command):
            if argument.python_only:
                continue
            word = argument.name.upper() if argument.positional else flag(argument.name)
            assert f"<code>{word}" in section, (name, word)


def test_included_parts_are_there(site):
    """Sections of the README and CONTRIBUTING; an included file that is empty is no error."""
    assert "GlobalContrastiveLoss(num_samples" in strip(site / "own_loop.html")
    assert "The logarithm of a noisy estimate is biased" in strip(site / "method.html")
    assert "another view of it, or its partner in a pair" in strip(site / "glossary.html")


def strip(page: Path) -> str:
    return " ".join(re.sub(r"<[^>]+>", "", page.read_text()).split())


def test_a_broken_link_ends_the_build(site, tmp_path):
    folder = copy_sources(tmp_path)
    page = folder / "docs" / "start.md"
    page.write_text(page.read_text() + "\n[lost](no_such_page.md)\n")
    assert build(folder).returncode != 0


def anchors_of(text: str) -> set[str]:
    """Name the headings as GitHub does: lower case, blanks as dashes, no punctuation."""
    text = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    titles = re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize(
    "file", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "benchmarks/README.md"]
)
def test_links_outside_the_site_lead_somewhere(file):
    text = (ROOT / file).read_text()
    links = [link for link in LINK.findall(text) if "://" not in link]
    for link in links:
        target, _, anchor = link.partition("#")
        path = (ROOT / file).parent / target if target else ROOT / file
        assert path.exists(), f"{file}: {link}"
        assert not anchor or anchor in anchors_of(path.read_text()), f"{file}: {link}"
