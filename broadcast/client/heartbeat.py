"""Tell from the answers to heartbeats whether the server is lost."""

import secrets

from ..protocol.commands import Command
from ..protocol.framing import encode
from ..protocol.messages import pong

SILENT_HEARTBEATS = 2
"""Heartbeats after which a server that has answered before, and is silent now, is lost."""

SECONDS_FOR_A_LINE = 1.0
"""Time that the server may take for each line that it may have to read before a heartbeat: with a
low `--max-rate`, it reads pasted lines for minutes."""


class Heartbeat:
    r"""The heartbeats of one connection.

    Each is `\ping <word>` with a fresh word. Our server answers `PONG <word>`; others may not, and
    are never given up for being silent.
    """

    def __init__(self) -> None:
        # Random, so that a word of the caller's own is not taken for one of these.
        self._prefix = secrets.token_hex(2) + "-"
        self._answer_prefix = pong(self._prefix)
        self._word = ""  # of the last heartbeat
        self._count = 0
        self._silent = 0  # heartbeats since anything was received
        self._server_answers = False
        self._lines_sent = 0  # without the heartbeats
        self._lines_before = 0  # sent before the last heartbeat
        self._lines_handled = 0  # sent before the last heartbeat that was answered

    def count_lines(self, lines: bytes) -> None:
        """Note that these lines were sent."""
        self._lines_sent += lines.count(b"\n")

    def is_answer(self, line: str) -> bool:
        """Return whether a received line answers a heartbeat, and note it."""
        if not line.startswith(self._answer_prefix):
            return False
        self._server_answers = True
        if line == pong(self._word):
            self._lines_handled = self._lines_before
        return True

    def is_lost(self, seconds: float, *, silent: bool) -> bool:
        """Return whether the server is lost; call it for each heartbeat, before `next_line`.

        `seconds`: between two heartbeats; `silent`: whether nothing was received since the last.
        """
        self._silent = self._silent + 1 if silent else 0
        unread_lines = self._lines_sent - self._lines_handled
        patience = max(SILENT_HEARTBEATS * seconds, SECONDS_FOR_A_LINE * unread_lines)
        return self._server_answers and self._silent * seconds >= patience

    def next_line(self) -> bytes:
        """Return the next heartbeat as it is sent."""
        self._count += 1
        self._word = f"{self._prefix}{self._count}"
        self._lines_before = self._lines_sent
        return encode(Command.PING.line(self._word))
