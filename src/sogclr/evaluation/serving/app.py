"""The server of a search: its addresses, and what it sends."""

from collections.abc import Iterable
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from ...data.image_source import ImageSource
from ..pages.render import make_environment
from ..searching.searchable import Searchable
from .asked import Asked
from .guard import Guard
from .pictures import (
    LARGE,
    MOST_BYTES,
    SMALL,
    BadPictureError,
    Uploads,
    shown_image,
)
from .sample_crowding import SampleCrowding
from .search_page import SearchPage, UnknownQueryError

__all__ = ["build_app"]

KEEP = {"Cache-Control": "private, max-age=3600"}
FORGET = {"Cache-Control": "no-store"}


def build_app(
    searchable: Searchable,
    title: str,
    names: Iterable[str] = (),
    crowding: SampleCrowding | None = None,
) -> Starlette:
    """Build the server of a search. It sends images of the data, and no other file.

    Args:
        searchable: what is searched.
        title: name of the run.
        names: names by which browsers may call this machine, see `Guard`.
        crowding: how crowded the samples are; None if the run does not know.
    """
    server = _Server(searchable, title, crowding)
    routes = [
        Route("/", server.show_page),
        Route("/search.css", server.send_style),
        Route("/search.js", server.send_script),
        Route("/thumbnail/{sample}", server.send_thumbnail),
        Route("/image/{sample}", server.send_image),
        Route("/dropped/{name}", server.send_dropped),
        Route("/picture", server.take_picture, methods=["POST"]),
    ]
    return Starlette(routes=routes, middleware=[Middleware(Guard, names=names)])


class _Server:
    """Answers requests. Functions that are not async run in threads of their own."""

    def __init__(self, searchable: Searchable, title: str, crowding: SampleCrowding | None) -> None:
        self._searched, self._uploads = searchable, Uploads(searchable)
        self._page = SearchPage(searchable, self._uploads, title, crowding)
        templates = make_environment()
        self._template = templates.get_template("search.html")
        self._style = templates.get_template("search.css").render()
        self._script = templates.get_template("search.js").render()

    def show_page(self, request: Request) -> Response:
        asked, status = Asked.read(request.query_params), 200
        try:
            shown = self._page.answer(asked)
        except UnknownQueryError as error:
            shown, status = self._page.refuse(asked, str(error)), 404
        return HTMLResponse(self._template.render(**shown), status, headers=FORGET)

    def send_style(self, _: Request) -> Response:
        return Response(self._style, media_type="text/css", headers=FORGET)

    def send_script(self, _: Request) -> Response:
        return Response(self._script, media_type="text/javascript", headers=FORGET)

    def send_thumbnail(self, request: Request) -> Response:
        return self._send(request, SMALL)

    def send_image(self, request: Request) -> Response:
        return self._send(request, LARGE)

    def _send(self, request: Request, side: int) -> Response:
        row, source = self._page.row_of(request.path_params["sample"]), self._searched.side
        if row is None or not isinstance(source, ImageSource):
            return PlainTextResponse("There is no such image.\n", 404)
        content = shown_image(source, row, side)
        if content is None:
            return PlainTextResponse("The image cannot be read.\n", 404, headers=FORGET)
        return Response(content, media_type="image/webp", headers=KEEP)

    def send_dropped(self, request: Request) -> Response:
        upload = self._uploads.get(request.path_params["name"])
        if upload is None:
            return PlainTextResponse("This picture was forgotten.\n", 404)
        return Response(upload.picture, media_type="image/webp", headers=KEEP)

    async def take_picture(self, request: Request) -> Response:
        """Take a picture as the body of a request, and say which page searches for it."""
        if not self._searched.takes_images:
            return _refuse("This run was trained on texts alone.", 415)
        try:
            content = await _read_body(request)
        except ClientDisconnect:
            return Response(status_code=400)
        if content is None:
            return _refuse(f"A picture may have at most {MOST_BYTES >> 20} MiB.", 413)
        try:
            name = await run_in_threadpool(self._uploads.add, content)
        except BadPictureError as error:
            return _refuse(str(error), 415)
        return JSONResponse({"address": Asked(picture=name).address})


async def _read_body(request: Request) -> bytes | None:
    """Read the body of a request; None if it is longer than `MOST_BYTES`."""
    content = bytearray()
    async for part in request.stream():
        content += part
        if len(content) > MOST_BYTES:
            return None
    return bytes(content)


def _refuse(reason: str, status: int) -> Response:
    answer: dict[str, Any] = {"error": reason}
    return JSONResponse(answer, status)
