"""The address of the data in settings.json."""

from pathlib import Path

import numpy as np
import pytest

from sogclr.runs.data_address import data_address


def test_paths_are_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    (tmp_path / "digits").mkdir()
    assert data_address("photos") == str(tmp_path / "photos")
    assert data_address(Path("photos")) == str(tmp_path / "photos")
    assert data_address("a-{00..03}.tar") == str(tmp_path / "a-{00..03}.tar")
    assert data_address("digits") == "digits"
    assert data_address("hf:name") == "hf:name"


@pytest.mark.parametrize("url", ["https://host/a.tar?token=secret", "https://u:secret@host/a.tar"])
def test_urls_have_no_secrets(url):
    address = data_address(url)
    assert address is not None
    assert address.startswith("https://")
    assert "secret" not in address


def test_data_in_memory_has_none():
    assert data_address(np.zeros((2, 4, 4))) is None
