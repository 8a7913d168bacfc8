"""Take up a lost connection again."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable

from ..errors import ConnectError, ConnectionLostError
from .client import BroadcastClient
from .conversation import Conversation, View

SHORTEST_DELAY, LONGEST_DELAY = 1.0, 30.0
"""Seconds between two tries to connect; they double from one to the other, and are cut by up to half at random, so that the clients of a
server that was restarted do not all come back at once."""


async def run_with_reconnect(
    connect: Callable[[], BroadcastClient], view: View, heartbeat: float, reconnect: bool
) -> None:
    """Talk until we leave. With `reconnect` a lost connection, or one that can't be had yet, is tried again until there is one.

    Lines read and not sent by then are sent first; what was under way may be lost, and nothing is sent twice. Raises what `Conversation.run`
    and `BroadcastClient.connect` do.
    """
    delay = SHORTEST_DELAY
    in_trouble = False
    while True:
        conversation: Conversation | None = None
        try:
            async with connect() as client:
                delay = SHORTEST_DELAY
                if in_trouble:
                    in_trouble = False
                    await view.tell(None)
                conversation = Conversation(client, view, heartbeat)
                await conversation.run()
                return
        except (ConnectError, ConnectionLostError) as problem:
            if not reconnect or (conversation and conversation.left) or view.quit_requested.is_set():
                raise
            if not in_trouble:
                in_trouble = True
                await view.tell(str(problem))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(SHORTEST_DELAY, delay * random.uniform(0.5, 1))):
                await view.quit_requested.wait()
        delay = min(2 * delay, LONGEST_DELAY)
