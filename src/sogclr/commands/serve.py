"""`sogclr.serve`: search in a browser on this machine."""

import ipaddress
import socket
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from torch import nn

from ..common.console import say
from ..common.errors import UserError, one_line, require
from ..common.options import Device
from ..evaluation.searching.searchable import open_searchable
from ..runs.folder import Run, is_pair_run

__all__ = ["serve"]

PORT, TRIED = 8000, 20  # the first port that is tried, and how many
SECONDS_TO_END = 2  # for answers that are under way at Ctrl-C


def serve(
    run: str | Path,
    data: Any,
    *,
    port: int | None,
    host: str,
    columns: str | Sequence[str] | None,
    module: nn.Module | None,
    device: Device,
) -> None:
    """See `sogclr.serve`."""
    in_range = port is None or 0 <= port <= 65_535
    require(in_range, "port", f"must be between 0 and 65535, got {port}")
    _require_installed()
    with _listen(host, port) as listening:  # first, so that a port in use costs no embedding
        searchable = open_searchable(run, data, columns, module, device)
        say(searchable.about)
        from ..evaluation.serving.app import build_app
        from ..evaluation.serving.sample_crowding import read_crowding

        crowding = read_crowding(Run(run), searchable.side, of_pairs=is_pair_run(run))
        app = build_app(searchable, f"Run {Path(run).resolve().name}", [host], crowding)
        where = _address(host, listening.getsockname()[1])
        if not _is_of_this_machine_alone(listening.getsockname()[0]):
            say("whoever reaches this address can search, and see all images of the data")
        say(f"search: open {where} in a browser; Ctrl-C ends it")
        _answer_until_stopped(app, listening)


def _require_installed() -> None:
    try:
        import starlette  # noqa: F401 (is it installed?)
        import uvicorn  # noqa: F401 (is it installed?)
    except ImportError as error:
        raise UserError(
            f"serve: needs {error.name}, which is not installed: pip install 'sogclr[serve]'"
        ) from None


def _listen(host: str, port: int | None) -> socket.socket:
    """Open the port: the one that was asked for, or the first that is free.

    Browsers that come before the server is ready wait.
    """
    tried = [port] if port is not None else [*range(PORT, PORT + TRIED), 0]
    for number in tried:
        try:
            found = socket.getaddrinfo(host, number, type=socket.SOCK_STREAM)
            family, *_, address = found[0]
            return socket.create_server(address, family=family)
        except (socket.gaierror, UnicodeError) as error:
            raise UserError(
                f"--host: {host} is no name of this machine ({one_line(error)})"
            ) from error
        except OSError as error:
            if number != tried[-1]:
                continue
            what = f"cannot open {_address(host, number or 0)} ({error.strerror or error})"
            raise UserError(f"--port: {what}; name another --port, or leave it out") from error
    raise AssertionError("the last port was tried")


def _address(host: str, port: int) -> str:
    """Return what a user types into a browser on this machine."""
    named = "127.0.0.1" if host == "0.0.0.0" else "::1" if host == "::" else host
    return f"http://[{named}]:{port}" if ":" in named else f"http://{named}:{port}"


def _is_of_this_machine_alone(address: str) -> bool:
    return ipaddress.ip_address(address.partition("%")[0]).is_loopback


def _answer_until_stopped(app: Any, listening: socket.socket) -> None:
    """Answer requests until Ctrl-C, which is how a server ends and no error."""
    import uvicorn

    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=SECONDS_TO_END,
    )
    with suppress(KeyboardInterrupt):
        uvicorn.Server(config).run(sockets=[listening])
    say("ended")
