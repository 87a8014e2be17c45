import os
import sys
from pathlib import Path

import pytest

from sogclr.common.cache import cache_folder


def test_the_folder_that_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("SOGCLR_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path


@pytest.mark.parametrize("empty", [False, True])
def test_without_a_name_it_is_of_the_user_and_of_this_package(monkeypatch, empty):
    monkeypatch.delenv("SOGCLR_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    if empty:
        monkeypatch.setenv("SOGCLR_CACHE", "")
    folder = cache_folder()
    assert folder.is_relative_to(Path.home())
    assert "sogclr" in folder.parts


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not have this variable")
def test_the_variable_of_linux(tmp_path, monkeypatch):
    monkeypatch.delenv("SOGCLR_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", os.fspath(tmp_path))
    assert cache_folder() == tmp_path / "sogclr"
