"""The room: its members, and what they say to each other."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from ..errors import HandshakeError
from ..net.connection import Connection
from ..protocol import messages, notices
from ..protocol.blocks import Block
from ..protocol.framing import encode
from ..protocol.handshake import FULL, SHUTTING_DOWN, SUCCESS
from .batch import Subscription
from .clock import ServingClock
from .fanout import Fanout
from .history import History
from .registry import Registry


@dataclass(frozen=True, slots=True, eq=False)
class Member:
    """A client that has joined the room."""

    name: str
    subscription: Subscription

    @property
    def joined_at(self) -> float:
        """When it joined, in running time."""
        return self.subscription.joined_at

    @property
    def position(self) -> int:
        """How far the client has been fed from the backlog; it only grows."""
        return self.subscription.cursor


class Room:
    """The clients of one server, who share everything that any of them publishes.

    This is all that sessions share. A room consists of a registry and a fan-out in this process,
    which only the room uses; methods that would have to wait for other servers are coroutines.

    `backlog`: bytes kept for slow readers. `grace`: seconds for which slow readers of one address
    may keep input paused. `notices`: whether joins and leaves are announced. `max_clients`: the
    most members at once. `history`: what was said before a client joined, which it is sent.
    """

    def __init__(
        self,
        clock: ServingClock,
        backlog: int,
        grace: float,
        notices: bool,
        max_clients: int,
        history: History | None = None,
    ) -> None:
        self._registry = Registry()
        self._fanout = Fanout(clock, backlog, grace)
        self._notices = notices
        self._max_clients = max_clients
        self._history = history
        self._members = 0
        self._closed = False
        self._lines_in = 0  # from all members, since the start
        self._bytes_in = 0

    def __len__(self) -> int:
        return len(self._registry)

    # --- members ---

    def check_space(self) -> None:
        """Raise HandshakeError if the room is closed or full."""
        if self._closed:
            raise HandshakeError(SHUTTING_DOWN)
        if self._members >= self._max_clients:
            raise HandshakeError(FULL)

    async def join(
        self, username: str, connection: Connection, on_evicted: Callable[[], None]
    ) -> Member:
        """Add a client under its username, followed by a number if that name is taken.

        The client is sent SUCCESS and the history, and then receives every block that others
        publish, until it leaves or `on_evicted` is called. Raises HandshakeError if the room is
        closed or full.
        """
        await self.wait_to_publish()
        self.check_space()
        self._members += 1
        name = self._registry.claim(username)
        renamed = [messages.notice(notices.renamed(username, name))] if name != username else []
        connection.send(encode(SUCCESS, *renamed))  # at once, so that clients know it at once
        if self._history:
            connection.send(self._history.render())
        member = Member(name, self._fanout.join(connection, on_evicted))
        self._announce(member, notices.joined(name))
        return member

    def leave(self, member: Member, why: str) -> asyncio.Future[bool]:
        """Free the name of a client that leaves, and announce `why` to the others.

        The client still receives what was published before; the future is done when it has been
        sent all of it, or its connection is closed. Its result is False if the client was evicted
        before that.
        """
        delivered = self._fanout.leave(member.subscription)
        self._release_name(member, why)
        return delivered

    def remove(self, member: Member, why: str) -> None:
        """Do the same as `leave`, but send the client nothing more."""
        self._fanout.remove(member.subscription)
        self._release_name(member, why)

    def release_place(self, member: Member) -> None:
        """Let another client join in place of one that has left and whose connection ends."""
        self._fanout.remove(member.subscription)
        self._members -= 1

    def _release_name(self, member: Member, why: str) -> None:
        self._registry.release(member.name)
        self._announce(member, notices.left(member.name, why))

    def _announce(self, member: Member, text: str) -> None:
        if self._notices:
            notice = encode(messages.notice(text))
            self._fanout.publish(member.subscription, notice, defer=True)

    # --- messages ---

    @property
    def must_wait_to_publish(self) -> bool:
        """Whether a publisher must wait, because input is paused or others are queued."""
        return self._fanout.must_wait_to_publish

    async def wait_to_publish(self) -> None:
        """Wait while input is paused, first come, first served; call it before each block."""
        await self._fanout.wait_to_publish()

    def publish(self, member: Member, block: Block) -> None:
        """Send messages to everyone but their author, in the same order for all."""
        self._fanout.publish(member.subscription, block.data, block.lines)
        if self._history:
            self._history.add(block)

    async def roster(self) -> Registry:
        """Return the names of the members, as a live view."""
        return self._registry

    # --- the whole room ---

    def count_input(self, lines: int, size: int) -> None:
        """Count lines and bytes that a member has sent, for the statistics."""
        self._lines_in += lines
        self._bytes_in += size

    def close(self) -> None:
        """Notify everyone of the shutdown, and remove all; from now on nobody can join or speak.

        A second call has no effect.
        """
        self._closed = True
        self._fanout.close(encode(messages.notice(SHUTTING_DOWN)))

    def statistics(self) -> dict[str, int]:
        """Return counts since the start or as of now, and the bytes of the backlog."""
        return {
            "lagging": self._fanout.lagging,
            "lines in": self._lines_in,
            "bytes in": self._bytes_in,
            "deliveries": self._fanout.deliveries,
            "backlog bytes": self._fanout.backlog,
            "dropped": self._fanout.evicted,
        }
