"""Keeps a view connected: runs a conversation, and reconnects when it is lost."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable

from ..errors import ConnectError, ConnectionLostError
from .client import BroadcastClient
from .conversation import Conversation, View

SHORTEST_DELAY, LONGEST_DELAY = 1.0, 30.0
"""Seconds between attempts to connect.

The delay doubles each time, and is shortened by up to half at random, so that the clients of a
restarted server do not all return at once.
"""


async def run_with_reconnect(
    connect: Callable[[], BroadcastClient], view: View, heartbeat: float, reconnect: bool
) -> None:
    """Run conversations until the user leaves; with `reconnect`, a lost one is followed by another.

    Lines that were read but not sent are sent first. Lines in transit may be lost, and nothing is
    sent twice. Raises what `BroadcastClient.connect` and `Conversation.run` raise.
    """
    delay = SHORTEST_DELAY
    was_lost = False
    while True:
        conversation: Conversation | None = None
        try:
            async with connect() as client:
                delay = SHORTEST_DELAY
                if was_lost:
                    was_lost = False
                    await view.set_status(None)
                conversation = Conversation(client, view, heartbeat)
                await conversation.run()
                return
        except (ConnectError, ConnectionLostError) as problem:
            has_left = view.quit_requested.is_set() or (conversation and conversation.is_leaving)
            if not reconnect or has_left:
                raise
            if not was_lost:
                was_lost = True
                await view.set_status(str(problem))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(SHORTEST_DELAY, delay * random.uniform(0.5, 1))):
                await view.quit_requested.wait()
        delay = min(2 * delay, LONGEST_DELAY)
