"""A command that fails as it should."""

import pytest

from sogclr.commands.cli import main


def refused(capsys, *arguments):
    """The one line of a command that ends with exit code 2."""
    with pytest.raises(SystemExit) as exit:
        main([str(argument) for argument in arguments])
    assert exit.value.code == 2
    error = capsys.readouterr().err.strip()
    line = error.split("\n")[-1]
    assert line.startswith("sogclr: ")
    assert "Traceback" not in error
    return line
