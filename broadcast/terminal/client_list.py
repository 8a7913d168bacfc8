r"""The answers to `\clients`: the user's are paragraphs, and the one for Tab is hidden."""

import enum
from collections.abc import Sequence

from ..protocol.messages import Incoming, Notice
from ..protocol.names import SENDER_LIMIT
from ..protocol.notices import Event
from ..states import follow

PARAGRAPH_LIMIT = 10_000
"""Names in a paragraph: as many as a room has, but bounded, whatever the server sends."""

_NAME_LIMIT = SENDER_LIMIT + len(" (you)")


class Question(enum.Enum):
    r"""Progress of the `\clients` that fetches the names for Tab, unseen by the user.

    Changed only in `ClientList._change`.
    """

    NOT_ASKED = enum.auto()
    ASKED = enum.auto()
    COUNTED = enum.auto()
    """The count, which comes first, has arrived: names may follow."""
    DONE = enum.auto()
    r"""The user has asked: what arrives from now on answers that."""


NEXT_QUESTION = {
    Question.NOT_ASKED: {Question.ASKED, Question.DONE},
    Question.ASKED: {Question.NOT_ASKED, Question.COUNTED},
    Question.COUNTED: {Question.DONE},
    Question.DONE: set[Question](),
}
"""What may follow each of them."""


class ClientList:
    """Gathers the names that follow a count of clients; a long answer comes in several pieces."""

    def __init__(self) -> None:
        self._question = Question.NOT_ASKED
        self._names: list[str] = []
        self._missing = 0  # names that are still to come

    def ask(self) -> bool:
        """Return whether the names for Tab are to be asked for, now."""
        if self._question is not Question.NOT_ASKED:
            return False
        self._change(Question.ASKED)
        return True

    def on_answer_lost(self) -> None:
        """Note that the connection was lost, with the answer if it was under way."""
        if self._question is Question.ASKED:
            self._change(Question.NOT_ASKED)

    def _change(self, question: Question) -> None:
        self._question = follow(NEXT_QUESTION, self._question, question)

    def gather(self, received: Sequence[Incoming]) -> list[Incoming]:
        """Return what to show of what was received.

        Names are held until all have arrived, or until something arrives that contains none: the
        count of a large room need not be exact.
        """
        shown: list[Incoming] = []
        already_held = len(self._names)
        for incoming in received:
            if self._is_hidden(incoming):
                continue
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

    def _is_hidden(self, incoming: Incoming) -> bool:
        """Return whether this belongs to the answer that the user has not asked for."""
        if self._question is Question.DONE or incoming.event is not Event.CLIENTS:
            return False
        if incoming.name is None:
            is_ours = self._question is Question.ASKED
            self._change(Question.COUNTED if is_ours else Question.DONE)
        return self._question is Question.COUNTED

    def _take_paragraph(self) -> list[Incoming]:
        names, self._names = self._names, []
        return [Notice(", ".join(names))] if names else []
