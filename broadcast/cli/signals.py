"""Exit codes, and signals that act within the event loop."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from typing import Any

OK, FAILED, INTERRUPTED, TERMINATED = 0, 1, 128 + signal.SIGINT, 128 + signal.SIGTERM
"""Exit codes; argparse's own is 2, for bad arguments."""


def handle_signal(number: int, act: Callable[..., None], *arguments: Any) -> None:
    """Have a signal act within the event loop, on systems too whose loop has no signal handlers."""
    loop = asyncio.get_running_loop()
    try:
        loop.add_signal_handler(number, act, *arguments)
    except NotImplementedError:
        signal.signal(number, lambda *_: loop.call_soon_threadsafe(act, *arguments))
