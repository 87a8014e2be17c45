"""What is said about versions: in pyproject.toml, in the documentation, in the changelog."""

import re
import tomllib
from pathlib import Path

import sogclr

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def lowest(requirements, name):
    [version] = [
        match[1] for each in requirements if (match := re.match(rf"{name}>=([\d.]+)", each))
    ]
    return version


def test_the_page_says_the_lowest_versions():
    page = (ROOT / "docs" / "install.md").read_text()
    rows = dict(re.findall(r"^\| ([^|]+) \| ([\d.]+) \|$", page, re.MULTILINE))
    assert rows["all commands"] == lowest(PROJECT["project"]["dependencies"], "torch")
    assert rows["the losses alone"] == lowest(PROJECT["dependency-groups"]["losses"], "torch")
    source = (ROOT / "src" / "sogclr" / "losses" / "torch_versions.py").read_text()
    assert f"({rows['the losses inside `torch.compile`'].replace('.', ', ')})" in source


def test_each_dependency_has_a_lowest_version():
    extras = PROJECT["project"]["optional-dependencies"]
    for group in (PROJECT["project"]["dependencies"], *extras.values()):
        for each in group:
            assert ">=" in each or each.startswith("sogclr["), each


def test_the_page_names_each_extra():
    page = (ROOT / "docs" / "install.md").read_text()
    extras = PROJECT["project"]["optional-dependencies"].keys() - {"dev", "docs"}
    assert set(re.findall(r"^\| `sogclr\[(.+)\]` \|", page, re.MULTILINE)) == extras


def test_the_changelog_begins_with_this_version():
    headings = re.findall(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0].split()[0] == sogclr.__version__
    dated = re.compile(r"\d+\.\d+\.\d+ \((unreleased, begun on )?\d{4}-\d\d-\d\d\)")
    assert all(dated.fullmatch(each) for each in headings)
