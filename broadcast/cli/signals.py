"""Exit codes, and signal handlers that run within the event loop."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from typing import Any

OK, FAILED, INTERRUPTED, TERMINATED = 0, 1, 128 + signal.SIGINT, 128 + signal.SIGTERM
"""Exit codes; argparse adds 2, for bad arguments."""


def handle_signal(number: int, callback: Callable[..., None], *arguments: Any) -> None:
    """Call back within the event loop on a signal, even on systems where asyncio cannot."""
    loop = asyncio.get_running_loop()
    try:
        loop.add_signal_handler(number, callback, *arguments)
    except NotImplementedError:  # Windows
        signal.signal(number, lambda *_: loop.call_soon_threadsafe(callback, *arguments))
