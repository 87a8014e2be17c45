"""List the arguments of commands, and turn dataclasses into their signatures and docstrings."""

import inspect
import re
import textwrap
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import wraps
from typing import Any, ParamSpec, TypeVar, get_args, get_type_hints

from tyro.conf import Suppress

from ..common.documentation import field_docs
from ..planning.settings import GROUPS
from .config_file import read_config

__all__ = ["Argument", "arguments_of", "config_values", "summary_of", "takes"]

P = ParamSpec("P")
S = TypeVar("S")
R = TypeVar("R")

REQUIRED = inspect.Parameter.empty


@dataclass(frozen=True)
class Argument:
    """One argument of a command.

    Attributes:
        name: Its name in Python.
        kind: Its type on the command line, annotated with the word that stands for a value.
        default: Its default, or `REQUIRED`.
        text: What the help says about it.
        group: The box of the help in which it stands, "" for the first one.
        positional: Whether it is a word of its own on the command line, without `--name`.
    """

    name: str
    kind: Any
    default: Any
    text: str
    group: str = ""
    positional: bool = False

    @property
    def python_only(self) -> bool:
        """Return whether only Python has it, since its values are Python objects."""
        hidden: Any = Suppress
        return get_args(hidden[str])[1:] == get_args(self.kind)[1:]


def config_values(arguments: list[Argument], file: Any, command: str) -> dict[str, Any]:
    """Read values of a command's arguments from a file, see `read_config`."""
    own = [a for a in arguments if not a.python_only and a.name != "config"]
    return read_config(file, command, {a.name: a.kind for a in own})


def takes(settings: Callable[P, S]) -> Callable[[Callable[[S], R]], Callable[P, R]]:
    """Make a decorator for a function of one dataclass: it then takes the fields as arguments.

    Type checkers and editors read the signature of the dataclass. `inspect.signature` and `help`
    show the same, with the docstrings of the fields as documentation.

    Args:
        settings: The dataclass, with a docstring under each field.
    """

    def decorate(function: Callable[[S], R]) -> Callable[P, R]:
        arguments = _fields_as_arguments(settings)
        signature = _signature(settings, arguments, function)

        @wraps(function)
        def command(*args: P.args, **kwargs: P.kwargs) -> R:
            try:
                given = signature.bind_partial(*args, **kwargs).arguments
                if given.get("config") is not None:
                    given = config_values(arguments, given["config"], function.__name__) | given
                signature.bind(**given)
            except TypeError as error:
                raise TypeError(f"{function.__name__}() {error}") from None
            build: Any = settings  # the file may have what Python's own check would miss
            return function(build(**given))

        vars(command).update(__signature__=signature, arguments=arguments)
        command.__doc__ = _with_arguments(inspect.getdoc(function) or "", arguments)
        return command

    return decorate


def arguments_of(command: Callable[..., Any]) -> list[Argument]:
    """List the arguments of a command, in the order of the help."""
    if (arguments := vars(command).get("arguments")) is not None:
        return arguments
    texts = _read_texts(inspect.getdoc(command) or "")
    kinds = get_type_hints(command, include_extras=True)
    parameters = inspect.signature(command).parameters
    return [
        Argument(n, kinds[n], p.default, texts[n], positional=p.kind is p.POSITIONAL_OR_KEYWORD)
        for n, p in parameters.items()
    ]


def summary_of(command: Callable[..., Any]) -> str:
    """Return the part of a command's docstring above its arguments."""
    return (inspect.getdoc(command) or "").partition("\n\nArgs:")[0]


def _fields_as_arguments(settings: Any) -> list[Argument]:
    """List the fields of a dataclass as arguments, in the order of the help."""
    kinds, texts = get_type_hints(settings, include_extras=True), field_docs(settings)
    defaults = {n: p.default for n, p in inspect.signature(settings).parameters.items()}
    groups: dict[str, str] = {}
    # The class that introduced a field decides its group. It comes last, so it overwrites others.
    for base in settings.__mro__:
        groups |= {name: base.group for name in inspect.get_annotations(base) if name in kinds}
    groups["views"] = "views"
    arguments = [
        Argument(
            f.name,
            kinds[f.name],
            _default(f, defaults),
            texts.get(f.name, ""),
            groups[f.name],
            positional=defaults[f.name] is REQUIRED and f.name != "out",
        )
        for f in fields(settings)
    ]
    return sorted(arguments, key=lambda a: (a.default is not REQUIRED, GROUPS.index(a.group)))


def _default(field: Any, defaults: dict[str, Any]) -> Any:
    """Return the default of a field; a dataclass's own signature hides the one of a factory."""
    return field.type() if field.name == "views" else defaults[field.name]


def _signature(
    settings: Any, arguments: list[Argument], function: Callable[..., Any]
) -> inspect.Signature:
    kinds = get_type_hints(settings)
    own = inspect.signature(settings).parameters
    parameters = [
        inspect.Parameter(a.name, own[a.name].kind, default=a.default, annotation=kinds[a.name])
        for a in arguments
    ]
    returned = inspect.signature(function).return_annotation
    return inspect.Signature(parameters, return_annotation=returned)


def _with_arguments(doc: str, arguments: list[Argument]) -> str:
    """Insert a section of the arguments with their texts, above the section `Returns`."""
    wrapper = textwrap.TextWrapper(
        width=96, initial_indent="    ", subsequent_indent="        ", break_on_hyphens=False
    )
    lines = "\n".join(wrapper.fill(f"{a.name}: {a.text}") for a in arguments)
    before, returns, after = doc.partition("\n\nReturns:")
    return f"{before}\n\nArgs:\n{lines}{returns}{after}"


def _read_texts(doc: str) -> dict[str, str]:
    """Read the section `Args` of a docstring: the text of each argument, on one line, by name."""
    section = doc.partition("\nArgs:\n")[2].partition("\n\n")[0]
    entries = re.split(r"^    (\w+): ", section, flags=re.MULTILINE)[1:]
    return {n: " ".join(t.split()) for n, t in zip(entries[::2], entries[1::2], strict=True)}
