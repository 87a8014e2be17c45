"""The command line: the verbs, with their signatures as flags and their docstrings as help."""

import sys
from collections.abc import Callable
from typing import Any

import tyro

from ..common.environment import connected, rank
from ..common.errors import UserError
from . import api

__all__ = ["main"]

VERBS: dict[str, Callable[..., Any]] = {
    "pretrain": api.pretrain,
    "align": api.align,
    "evaluate": api.evaluate,
    "embed": api.embed,
    "search": api.search,
    "audit": api.audit,
}


def main(arguments: list[str] | None = None) -> None:
    """Run a command; what a person can put right is one line on stderr and exit code 2."""
    try:
        tyro.extras.subcommand_cli_from_dict(
            VERBS,
            prog="sogclr",
            description="Contrastive learning that does not need a large batch.",
            args=arguments,
            config=(tyro.conf.DisallowNone,),
        )
    except UserError as error:
        if rank() == 0 or connected():  # before they are, all processes meet the same
            print(f"sogclr: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
