"""The command line: arguments of commands become options, their docstrings become the help."""

import os
import re
import shutil
import sys
import textwrap
import traceback
from argparse import ArgumentParser
from collections.abc import Callable
from dataclasses import field, fields, is_dataclass, make_dataclass, replace
from typing import Annotated, Any, NoReturn, get_args

import tyro
from tyro.conf import DisallowNone, FlagCreatePairsOff, OmitArgPrefixes, Positional, arg

from .. import __version__
from ..common.documentation import field_docs
from ..common.environment import process_prefix
from ..common.errors import UserError, flag
from ..common.options import Augmentation
from ..common.printable import printable
from . import api, api_finetune, api_models, api_pages
from .arguments import REQUIRED, Argument, arguments_of, config_values, summary_of
from .explain_errors import explain, report_line

__all__ = ["main"]

COMMANDS: dict[str, Callable[..., Any]] = {
    "preview": api_pages.preview,
    "pretrain": api.pretrain,
    "align": api.align,
    "evaluate": api.evaluate,
    "finetune": api_finetune.finetune,
    "report": api_pages.report,
    "embed": api.embed,
    "search": api.search,
    "serve": api_pages.serve,
    "curate": api_pages.curate,
    "audit": api.audit,
    "export": api_models.export,
    "push": api_models.push,
}
DESCRIPTION = """Contrastive learning that does not need a large batch.

`sogclr COMMAND --help` lists the options of a command, `sogclr --version` prints the version."""
TRY_AGAIN = 75  # EX_TEMPFAIL in sysexits.h
CONFIG = (DisallowNone,)  # The help leaves out None as a value.


def main(words: list[str] | None = None) -> None:
    """Run a command, and exit with a code other than 0 unless it has done its work.

    1: a bug. 2: an error that the user can correct, printed as one line. 75, "try again": the run
    was stopped on request, and `--resume` continues it. 130: stopped at once by Ctrl-C.

    Args:
        words: The words after `sogclr`. Default: those of the command line.
    """
    words = sys.argv[1:] if words is None else words
    try:
        try:
            _dispatch(words)
        finally:
            sys.stdout.flush()
    except UserError as error:
        _fail(str(error))
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        # The reader, such as `head`, has closed the pipe. Python flushes stdout again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except Exception as error:
        line = explain(error)
        if line is not None:
            _fail(line)
        traceback.print_exc()
        _fail(report_line(), code=1)


def _fail(line: str, code: int = 2) -> NoReturn:
    """Print one line on stderr and exit; one of several processes says which one it is."""
    print(f"sogclr: {process_prefix()}{printable(line, sys.stderr.encoding)}", file=sys.stderr)
    sys.exit(code)


def _dispatch(words: list[str]) -> None:
    if words == ["--version"]:
        print(f"sogclr {__version__}")
    elif words and words[0] in COMMANDS:
        _run_command(words[0], words[1:])
    else:
        _list_commands(words)


def _run_command(name: str, words: list[str]) -> None:
    """Parse the words that follow the name of a command, and run the command."""
    command = COMMANDS[name]
    arguments = _with_config(name, _own_arguments(command), words)
    _print_above_help(_name_options(summary_of(command), _shown_names(arguments)), words)
    parser: Any = _build_parser(name, arguments)
    parsed = tyro.cli(parser, prog=f"sogclr {name}", args=words, config=CONFIG)
    _require_no_empty_words(arguments, _values(parsed))
    result = command(**_values(parsed))
    if not getattr(result, "complete", True) and result.forecast is None:
        sys.exit(TRY_AGAIN)


def _own_arguments(command: Callable[..., Any]) -> list[Argument]:
    """List the arguments of a command that the command line has."""
    return [argument for argument in arguments_of(command) if not argument.python_only]


def _with_config(name: str, arguments: list[Argument], words: list[str]) -> list[Argument]:
    """Take defaults of arguments from the file that `--config` names; words go above them."""
    finder = ArgumentParser(add_help=False, allow_abbrev=False)
    finder.add_argument("--config", nargs="?")
    file = finder.parse_known_args(words)[0].config
    if not file or "config" not in {argument.name for argument in arguments}:
        return arguments
    values = config_values(arguments, file, name)
    return [replace(a, default=values.get(a.name, a.default)) for a in arguments]


def _require_no_empty_words(arguments: list[Argument], values: dict[str, Any]) -> None:
    """Refuse "", which a shell makes of an unset variable; as a path it is the current folder."""
    for argument in arguments:
        if values[argument.name] == "" and argument.default != "":
            name = argument.name if argument.positional else flag(argument.name)
            raise UserError(f'{name}: "" is no value; was a variable of the shell not set?')


def _list_commands(words: list[str]) -> None:
    """List the commands, or refuse words that do not start with one of them."""
    _print_above_help(DESCRIPTION, words)
    parsers: dict[str, Callable[..., Any]] = {}
    for name, command in COMMANDS.items():
        parsers[name] = _build_parser(name, _own_arguments(command))
        parsers[name].__doc__ = summary_of(command).partition("\n\n")[0]
    tyro.extras.subcommand_cli_from_dict(
        parsers, prog="sogclr", description="", args=words, config=CONFIG
    )


def _print_above_help(text: str, words: list[str]) -> None:
    """Print a text above tyro's help, wrapped to the terminal; tyro itself would not wrap it."""
    if {"-h", "--help"} & set(words):
        width = shutil.get_terminal_size().columns
        for paragraph in text.split("\n\n"):
            print(textwrap.fill(" ".join(paragraph.split()), width), end="\n\n")


def _build_parser(name: str, arguments: list[Argument]) -> type:
    """Build the dataclass that tyro parses: one field per argument or group of arguments."""
    groups: dict[str, list[Argument]] = {}
    for argument in arguments:
        groups.setdefault(argument.group, []).append(argument)
    names = _shown_names(arguments)
    options = [_option(argument, names) for argument in groups.pop("", [])]
    for title, members in groups.items():
        if title == "views":
            options.append(
                ("views", *_build_group("views", _view_arguments(members[0].default), names))
            )
        else:
            kind, default = _build_group(title, members, names)
            # Prefix the title: an argument may have the same name.
            options.append(
                (f"group_{title}", Annotated[kind, OmitArgPrefixes, arg(name=title)], default)
            )
    parser = make_dataclass(name, options, kw_only=True)
    parser.__doc__ = ""
    return parser


def _build_group(title: str, arguments: list[Argument], names: dict[str, str]) -> tuple[Any, Any]:
    """Build a dataclass whose fields fill one box of the help, and its default."""
    group = make_dataclass(title, [_option(argument, names) for argument in arguments])
    group.__doc__ = ""
    return group, field(default_factory=group)


def _view_arguments(views: Any) -> list[Argument]:
    """List the fields of an `Augmentation` as arguments."""
    texts = field_docs(type(views))
    return [
        Argument(f.name, f.type, getattr(views, f.name), texts.get(f.name, ""))
        for f in fields(views)
    ]


def _option(argument: Argument, names: dict[str, str]) -> tuple[str, Any, Any]:
    """Describe an argument to tyro: its name, its type with its help, its default."""
    default = argument.default
    required = default is REQUIRED
    # Hide a default that is explained in the text, such as None for a derived value.
    hide = default is None or default is False or default == "" or "Default:" in argument.text
    # Leave out sentences about Python, and name other options by their flags.
    text = re.sub(r" From Python .*?\.(?= |$)", "", argument.text)
    options: dict[str, Any] = {
        "help": _name_options(text, names),
        "help_behavior_hint": "" if hide and not required else None,
    }
    if (metavar := _metavar(argument.kind)) is not None:
        optional_word = argument.positional and not required
        options["metavar"] = f"[{metavar}]" if optional_word else metavar
    kind: Any = Annotated[argument.kind, arg(**options)]
    if argument.positional:
        kind = Annotated[kind, Positional]
    if default is not True:  # Beside a True of a file stands --no-X, which undoes it.
        kind = Annotated[kind, FlagCreatePairsOff]
    return argument.name, kind, field() if required else field(default=default)


def _shown_names(arguments: list[Argument]) -> dict[str, str]:
    """Return for each argument what a user sees of it: its flag, or the word for its value."""
    return {
        argument.name: (argument.positional and _metavar(argument.kind)) or flag(argument.name)
        for argument in arguments
    }


def _name_options(text: str, names: dict[str, str]) -> str:
    """Replace the names of arguments in a text, which are in backticks."""
    return re.sub(r"`(\w+)`", lambda m: names.get(m[1], m[0]), text)


def _metavar(kind: Any) -> str | None:
    """Find the word that stands for a value, as in `Annotated[str, "FOLDER"] | None`."""
    for part in (kind, *get_args(kind)):
        for note in getattr(part, "__metadata__", ()):
            if isinstance(note, str):
                return note
    return None


def _values(parsed: Any) -> dict[str, Any]:
    """Collect the arguments of a command from the parsed dataclass and its groups."""
    values: dict[str, Any] = {}
    for name, value in vars(parsed).items():
        if name == "views" and is_dataclass(value):
            values[name] = Augmentation(**vars(value))
        elif is_dataclass(value):
            values |= vars(value)
        else:
            values[name] = value
    return values
