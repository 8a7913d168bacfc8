"""Signal handlers that run within the event loop."""

import asyncio
import contextlib
import signal
from collections.abc import Callable, Iterator
from typing import Any


@contextlib.contextmanager
def handling_signal(number: int, callback: Callable[..., None], *arguments: Any) -> Iterator[None]:
    """Call back within the event loop on a signal, even on systems where asyncio cannot."""
    loop = asyncio.get_running_loop()
    try:
        loop.add_signal_handler(number, callback, *arguments)
    except NotImplementedError:  # Windows
        signal.signal(number, lambda *_: loop.call_soon_threadsafe(callback, *arguments))
    try:
        yield
    finally:
        with contextlib.suppress(NotImplementedError):
            loop.remove_signal_handler(number)
