r"""Join the answer to `\clients`, which has one name per line, into a paragraph."""

from __future__ import annotations

from collections.abc import Sequence

from ..protocol.messages import Incoming, Notice
from ..protocol.names import SENDER_LIMIT
from ..protocol.notices import Event

PARAGRAPH_LIMIT = 10_000
"""Names in a paragraph: as many as a room has, but bounded, whatever the server sends."""

_NAME_LIMIT = SENDER_LIMIT + len(" (you)")


class ClientList:
    """Gathers the names that follow a count of clients; a long answer comes in several pieces."""

    def __init__(self) -> None:
        self._names: list[str] = []
        self._missing = 0  # names that are still to come

    def gather(self, received: Sequence[Incoming]) -> list[Incoming]:
        """Return what to show of what was received.

        Names are held until all have arrived, or until something arrives that contains none: the
        count of a large room need not be exact.
        """
        shown: list[Incoming] = []
        already_held = len(self._names)
        for incoming in received:
            if incoming.event is not Event.CLIENTS or len(incoming.text) > _NAME_LIMIT:
                shown.append(incoming)
            elif incoming.name is None:
                shown += [*self._take_paragraph(), incoming]
                self._missing = min(int(incoming.text.split()[0]), PARAGRAPH_LIMIT)
            elif self._missing:
                self._names.append(incoming.text)
                self._missing -= 1
                if not self._missing:
                    shown += self._take_paragraph()
            else:
                shown.append(incoming)
        if already_held and len(self._names) == already_held:
            shown = [*self._take_paragraph(), *shown]
        return shown

    def _take_paragraph(self) -> list[Incoming]:
        names, self._names = self._names, []
        return [Notice(", ".join(names))] if names else []
