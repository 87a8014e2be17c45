"""Open data that may be a stream, and refuse settings that do not fit it."""

from typing import Any, TypeVar

from ..common.errors import UserError
from ..data.open_pairs import open_pairs
from ..data.pair_source import PairSource
from ..data.tar.stream import StreamSource
from ..data.tar.stream_pairs import PairStream
from ..data.tar.urls import is_url
from ..planning.settings_pairs import PairSettings

__all__ = ["open_data", "open_stream"]

S = TypeVar("S", bound=StreamSource)


def open_stream(data: Any, request: Any, kind: type[S]) -> S | None:
    """Open the stream that `data` names.

    Args:
        data: the `data` argument of `pretrain` or `align`.
        request: the settings of the run: `table_rows`, `epoch_samples`, `method`, `on_damaged`.
        kind: `StreamSource` for images, `PairStream` for pairs.

    Returns:
        The stream; None if `data` is not a URL.

    Raises:
        UserError: the stream cannot be read, a setting does not go with a stream, or a setting
            goes only with a stream.
    """
    rows, samples = request.table_rows, request.epoch_samples
    if not is_url(data):
        for name, value in (("--table-rows", rows), ("--epoch-samples", samples)):
            if value is not None:
                raise UserError(f"{name}: goes with a stream, shards by URL; leave it out")
        return None
    if samples is None:
        raise UserError("data: the length of a stream is unknown; give --epoch-samples")
    if samples < 2:
        raise UserError(f"--epoch-samples: must be at least 2, got {samples}")
    if request.method == "sogclr" and rows is None:
        raise UserError(
            "data: samples of a stream have no row of their own; give --table-rows, for example "
            f"{10 * samples:,} (a tenth of the samples of an epoch then share a row)"
        )
    if request.method != "sogclr" and rows is not None:
        raise UserError("--table-rows: goes with --method sogclr; other methods have no table")
    if rows is not None and rows < 1:
        raise UserError(f"--table-rows: must be at least 1, got {rows}")
    if request.on_damaged != "skip":
        raise UserError(
            "--on-damaged: a stream cannot be checked before the first step; leave out "
            "--on-damaged refuse: damaged samples are reported when training meets them"
        )
    return kind(data, samples)


def open_data(data: Any, request: PairSettings) -> PairSource | PairStream:
    """Open the pairs to train on: a table, shards, or a stream of shards by URL.

    Raises:
        UserError: the data cannot be read, or a setting does not fit it.
    """
    if is_url(data) and request.columns is not None:
        raise UserError(
            "--columns: a stream has none; a caption is a part txt, or `caption` in json"
        )
    stream = open_stream(data, request, PairStream)
    return open_pairs(data, request.columns) if stream is None else stream
