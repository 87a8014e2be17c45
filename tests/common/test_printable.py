import os
import subprocess
import sys

import pytest

from sogclr import UserError
from sogclr.common.printable import printable

AS_THEY_ARE = [
    "IMG [holiday] 1.png", "a [red]rose[/red]", ":dog: [/b] \\n", "狗 naïve 👩‍👩‍👧", "שלום",
    "e\u0301", "non\u00a0breaking", "  two  blanks  ", "x" * 500,
]  # fmt: skip
ESCAPED = {
    "two\nlines\r\n": r"two\nlines\r\n",
    "\x1b[2Jclear": r"\x1b[2Jclear",
    "\x1b]0;title\x07": r"\x1b]0;title\x07",
    "tab\there \x00 \x7f \x9b1m": r"tab\there \x00 \x7f \x9b1m",
    "exe.\u202egnp": r"exe.\u202egnp",
    "line\u2028paragraph\u2029": r"line\u2028paragraph\u2029",
    "caf\udce9 \ud83d": r"caf\udce9 \ud83d",
}


@pytest.mark.parametrize("text", AS_THEY_ARE)
def test_what_can_be_shown_stays_as_it_is(text):
    assert printable(text) == text
    assert printable(text, "utf-8") == text


@pytest.mark.parametrize("text", ESCAPED)
def test_what_cannot_be_shown_is_escaped_to_one_line(text):
    assert printable(text, "utf-8") == printable(text) == ESCAPED[text]


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "latin-1", "cp437"])
def test_characters_that_the_encoding_lacks_are_escaped(encoding):
    for text in (*AS_THEY_ARE, *ESCAPED):
        shown = printable(text, encoding)
        assert shown.encode(encoding).decode(encoding) == shown
    assert printable("狗 dog 👍", encoding) == r"\u72d7 dog \U0001f44d"


@pytest.mark.parametrize("encoding", ["utf-8", "cp1252", "ascii"])
@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_lines_are_printed_as_they_are_and_not_wrapped(encoding, stream):
    texts = [*AS_THEY_ARE, *ESCAPED, "[bold]", "https://host/:heart:.png"]
    call = {"stdout": "result", "stderr": "say"}[stream]
    code = f"from sogclr.common.console import {call}\nfor text in {texts!a}: {call}(text)"
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "COLUMNS": "40"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr
    lines = getattr(done, stream).decode(encoding).splitlines()
    assert lines == [printable(text, encoding) for text in texts]


@pytest.mark.parametrize("text", ESCAPED)
def test_an_error_stays_one_line_whatever_is_named_in_it(text):
    assert str(UserError(f"data: {text} does not exist")) == f"data: {ESCAPED[text]} does not exist"
