"""The room: its members, and what they say to each other."""

import contextlib
from abc import ABC, abstractmethod
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

from ..errors import HandshakeError
from ..net.connection import Connection
from ..protocol import messages, notices
from ..protocol.blocks import Block
from ..protocol.framing import encode
from ..protocol.handshake import FULL, SHUTTING_DOWN, SUCCESS
from .clock import ServingClock
from .fanout import Fanout
from .history import History
from .reasons import Interrupt, LeaveReason
from .registry import Registry, Roster
from .settings import Settings
from .subscription import Subscription


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


class Room(ABC):
    """The clients that share everything that any of them publishes.

    Through this alone, sessions reach each other. What is common to all kinds of rooms is here: who
    of this server's clients is sent what, by a fan-out which only the room uses. Rooms differ in
    who gives out names, and who decides the order of messages: a method that may have to wait for
    other servers is a coroutine.
    """

    def __init__(
        self,
        clock: ServingClock,
        settings: Settings,
        history: History | None = None,
        roster: Roster | None = None,
    ) -> None:
        # The names of all members, including those of other servers.
        self._roster = Roster() if roster is None else roster
        self._present: set[Member] = set()  # this server's, until they leave
        self._fanout = Fanout(clock, settings.backlog, settings.grace)
        self.gate = self._fanout.gate
        self._notices = settings.notices
        self._max_clients = settings.max_clients
        self._history = history  # what was said before a client joined, which it is sent
        self._members = 0  # including those that have left and are being sent the rest
        self._lines_in = 0  # from all members, since the start
        self._bytes_in = 0

    def __len__(self) -> int:
        return len(self._present)

    # --- members ---

    def check_space(self, reserved: int = 0) -> None:
        """Raise HandshakeError if the room is closed, or full but for places that are reserved."""
        if self._fanout.is_closed:
            raise HandshakeError(SHUTTING_DOWN)
        if self._members + reserved >= self._max_clients:
            raise HandshakeError(FULL)

    @abstractmethod
    async def join(self, username: str, connection: Connection, interrupt: Interrupt) -> Member:
        """Add a client under its username, followed by a number if that name is taken.

        The client is sent SUCCESS and the history, and then receives every block that others
        publish, until it leaves or `interrupt` is called. Raises HandshakeError if the room is
        closed, full or temporarily unavailable.
        """

    def _admit(self, asked: str, name: str, connection: Connection, interrupt: Interrupt) -> Member:
        """Make a client a member, under the name that it was given."""
        self._members += 1
        renamed = [messages.notice(notices.renamed(asked, name))] if name != asked else []
        connection.send(encode(SUCCESS, *renamed))  # even if the history is long
        if self._history:
            connection.send(self._history.render())
        member = Member(name, self._fanout.join(connection, interrupt))
        self._present.add(member)
        self._announce(notices.joined(name), member)
        return member

    @abstractmethod
    async def leave(self, member: Member, why: str) -> bool:
        """Free the name of a client that leaves, tell the others why, and send it the rest.

        The client still receives what was published before. Returns when it has been sent all of
        that, or its connection is closed; False if it was evicted before.
        """

    def remove(self, member: Member, why: str) -> None:
        """Do the same as `leave`, but send the client nothing more; no effect if it has left."""
        self._fanout.remove(member.subscription)
        self._release_name(member, why)

    @abstractmethod
    def _release_name(self, member: Member, why: str) -> None:
        """Free a member's name and announce why, unless it is not present any more."""

    def release_place(self, member: Member) -> None:
        """Let another client join in place of one whose connection ends; it leaves if it is here.

        It is only still here if its session has failed or was cancelled.
        """
        self.remove(member, LeaveReason.LOST.value)
        self._members -= 1

    def _announce(self, text: str, member: Member | None = None) -> None:
        """Tell everyone but the member itself that somebody has joined or left."""
        if self._notices:
            notice = encode(messages.notice(text))
            author = None if member is None else member.subscription
            self._fanout.publish(author, notice, defer=True)

    # --- messages ---

    def flush(self) -> None:
        """Send what was published without waiting for the end of this iteration."""
        self._fanout.flush_due()

    @abstractmethod
    def publish(self, member: Member, block: Block) -> None:
        """Send messages to everyone but their author, in the same order for all."""

    async def roster(self) -> Roster:
        """Return the names of the members, as a live view."""
        return self._roster

    # --- the whole room ---

    def count_input(self, lines: int, size: int) -> None:
        """Count lines and bytes that a member has sent, for the statistics."""
        self._lines_in += lines
        self._bytes_in += size

    def open(self) -> AbstractAsyncContextManager[None]:
        """Return the scope within which clients may join, and which outlasts all sessions.

        Entering it raises BroadcastError if the room can't be had.
        """
        return contextlib.nullcontext()

    async def finish(self) -> None:  # noqa: B027
        """Accept no more messages, and deliver those that were accepted, in bounded time."""

    def close(self) -> None:
        """Notify everyone of the shutdown, and remove all; from now on nobody can join or speak.

        A second call has no effect.
        """
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


class LocalRoom(Room):
    """The clients of one server: a registry and a fan-out in this process."""

    def __init__(
        self, clock: ServingClock, settings: Settings, history: History | None = None
    ) -> None:
        self._registry = Registry()
        super().__init__(clock, settings, history, self._registry)

    async def join(self, username: str, connection: Connection, interrupt: Interrupt) -> Member:
        await self.gate.wait_turn()
        self.check_space()
        return self._admit(username, self._registry.claim(username), connection, interrupt)

    async def leave(self, member: Member, why: str) -> bool:
        delivered = self._fanout.leave(member.subscription)
        self._release_name(member, why)
        return await delivered

    def _release_name(self, member: Member, why: str) -> None:
        if member in self._present:
            self._present.discard(member)
            self._registry.release(member.name)
            self._announce(notices.left(member.name, why), member)

    def publish(self, member: Member, block: Block) -> None:
        self._fanout.publish(member.subscription, block.data, block.lines)
        if self._history:
            self._history.add(block)
