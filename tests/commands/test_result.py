"""What training suggests to type next is understood by the command line."""

import shlex
from functools import wraps

import pytest

from sogclr.commands import align, cli, pretrain


@pytest.mark.parametrize("suggestion", sorted({*pretrain.NEXT, *align.NEXT}))
def test_suggested_commands_can_be_typed(suggestion, monkeypatch):
    program, name, *words = shlex.split(suggestion.format(run="'a run'", data="'my photos'"))
    received = {}

    @wraps(cli.COMMANDS[name])
    def record(**values):
        received.update(values)

    monkeypatch.setitem(cli.COMMANDS, name, record)
    cli.main([name, *words])
    assert program == "sogclr"
    assert received["run"] == "a run"
    assert received["data"] == "my photos"
