"""Who is here and what is said: the one thing that sessions share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from .. import protocol
from ..errors import HandshakeError
from ..net.connection import Connection
from ..protocol import Block
from .batch import Subscription
from .clock import ServingClock
from .fanout import Fanout
from .registry import Registry, Roster


@dataclass(frozen=True, slots=True, eq=False)
class Member:
    """One client's place in the room."""

    name: str
    subscription: Subscription


class Room:
    """The clients of one server, and what they say to each other.

    `backlog` and `grace` are what the fan-out keeps for slow readers, in bytes, and how long they
    may hold up the room, in seconds. `notices`: whether joins and leaves are announced.
    `max_clients`: members at once.
    """

    def __init__(
        self, clock: ServingClock, backlog: int, grace: float, notices: bool, max_clients: int
    ) -> None:
        self._registry = Registry()
        self._fanout = Fanout(clock, backlog, grace)
        self._notices = notices
        self._max_clients = max_clients
        self._members = 0
        self._closed = False

    # --- members ---

    def check_space(self) -> None:
        """Raise HandshakeError if nobody can join now."""
        if self._closed:
            raise HandshakeError(protocol.SHUTTING_DOWN)
        if self._members >= self._max_clients:
            raise HandshakeError(protocol.FULL)

    async def join(
        self, asked: str, connection: Connection, on_evicted: Callable[[], None]
    ) -> Member:
        """Let a client in under the name that it asked for, or that name with a number.

        It is told SUCCESS, and gets every block that is published from now on, or `on_evicted` is
        called, and it gets nothing more. Raises HandshakeError if it can't join.
        """
        await self.wait_to_publish()
        self.check_space()
        self._members += 1
        name = self._registry.claim(asked)
        connection.send(protocol.encode(protocol.SUCCESS))
        if name != asked:
            connection.send(protocol.encode(protocol.renamed_notice(asked, name)))
        member = Member(name, self._fanout.join(connection, on_evicted))
        self._announce(member, f"{name} joined")
        return member

    def leave(self, member: Member, why: str | None) -> asyncio.Future[None]:
        """Let a client go: its name is free, and the others are told `why`, unless it is None.

        It still gets what was published before; the future is done when it has, or never will.
        """
        self._registry.release(member.name)
        delivered = self._fanout.leave(member.subscription)
        self._announce_leave(member, why)
        return delivered

    def evict(self, member: Member, why: str) -> None:
        """Let a client go as `leave` does, but nothing more is sent to it."""
        self._registry.release(member.name)
        self._fanout.drop(member.subscription)
        self._announce_leave(member, why)

    def forget(self, member: Member) -> None:
        """End what `leave` or `evict` began: the client's connection has ended."""
        self._fanout.drop(member.subscription)
        self._members -= 1

    def _announce_leave(self, member: Member, why: str | None) -> None:
        if why is not None:
            self._announce(member, f"{member.name} left ({why})" if why else f"{member.name} left")

    def _announce(self, member: Member, text: str) -> None:
        if self._notices:
            notice = protocol.encode(protocol.notice(text))
            self._fanout.publish(member.subscription, notice, defer=True)

    # --- what is said ---

    @property
    def must_wait_to_publish(self) -> bool:
        """Whether a publisher must wait, because input is paused or others are queued."""
        return self._fanout.must_wait_to_publish

    async def wait_to_publish(self) -> None:
        """Wait while input is paused; to be called before each block."""
        await self._fanout.wait_to_publish()

    def publish(self, member: Member, block: Block) -> None:
        """Send messages to everyone but their author, after all that was published before."""
        self._fanout.publish(member.subscription, block.data, block.lines)

    async def roster(self) -> Roster:
        """Return who is here: a live view."""
        return self._registry.roster

    # --- the whole room ---

    def close(self) -> None:
        """Tell everyone that the server is shutting down, and let all go; nobody can join now."""
        self._closed = True
        self._fanout.close(protocol.encode(protocol.notice(protocol.SHUTTING_DOWN)))

    def statistics(self) -> dict[str, int]:
        """Return counts, since the beginning or as of now, and bytes of backlog."""
        return {
            "clients": len(self._registry),
            "lagging": self._fanout.lagging,
            "deliveries": self._fanout.deliveries,
            "backlog bytes": self._fanout.backlog,
            "dropped": self._fanout.dropped,
        }
