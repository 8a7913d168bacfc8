"""Keep a view connected: run a conversation, and reconnect when it is lost."""

import asyncio
import contextlib
import random
from collections.abc import Callable

from ..errors import ConnectError, ConnectionLostError, TLSMismatchError
from .client import BroadcastClient
from .conversation import Conversation, Stage, View

SHORTEST_DELAY, LONGEST_DELAY = 1.0, 30.0
"""Seconds between attempts to connect.

The delay doubles each time, and is shortened by up to half at random, so that the clients of a
restarted server do not all return at once.
"""


async def run_with_reconnect(
    make_client: Callable[[], BroadcastClient], view: View, reconnect: bool
) -> None:
    """Run conversations until the user leaves; with `reconnect`, a lost one is followed by another.

    Lines in transit may be lost, and nothing is sent twice. Raises what `BroadcastClient.connect`
    and `Conversation.run` raise.
    """
    delay = 0.0  # until the next attempt; 0 until one has failed
    while True:
        client = make_client()
        conversation = Conversation(client, view)
        try:
            async with client:
                delay = 0.0
                await view.on_connected(client.address, client.user)
                await conversation.run()
                return
        except (ConnectError, ConnectionLostError) as problem:
            is_leaving = conversation.stage is Stage.LEAVING or view.quit_requested.is_set()
            if is_leaving or not reconnect or isinstance(problem, TLSMismatchError):
                raise
            delay = min(max(2 * SHORTEST_DELAY, 2 * delay), LONGEST_DELAY)
            shortened = delay * random.uniform(0.5, 1)
            await view.on_disconnected(problem, shortened)
        # Ctrl-D ends the wait: one more attempt is made to send what was entered meanwhile.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(shortened):
                await view.quit_requested.wait()
