"""Stop a run on Ctrl-C or SIGTERM after the current step."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from ..common.console import say
from ..common.system import STOP_SIGNALS

__all__ = ["StopRequest", "watch_stop_signals"]


class StopRequest:
    """A flag that a signal sets to stop the run after the current step."""

    def __init__(self) -> None:
        self.received = False

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal: note the first one, raise KeyboardInterrupt at the second one."""
        if self.received:
            raise KeyboardInterrupt
        self.received = True
        say("stopping after this step; a second signal stops at once")


@contextmanager
def watch_stop_signals() -> Iterator[StopRequest]:
    """Handle `STOP_SIGNALS` within this context, and restore the handlers at its end."""
    request = StopRequest()
    try:
        before = {s: signal.signal(s, request.handle) for s in STOP_SIGNALS}
    except ValueError:  # Only the main thread may set handlers. Others run without them.
        yield request
        return
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
