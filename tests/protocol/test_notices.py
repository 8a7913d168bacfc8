"""What a notice says, as an event."""

from __future__ import annotations

import datetime

import pytest

from broadcast import Event, Message, Notice, Pong, ServerError
from broadcast.protocol import notices
from broadcast.protocol.handshake import SHUTTING_DOWN

SAID_AT = datetime.datetime(2026, 11, 22, 13, 5, 59)


@pytest.mark.parametrize(
    ("text", "event", "attributes"),
    [
        (notices.joined("bob"), Event.JOINED, {"name": "bob"}),
        (notices.left("bob", ""), Event.LEFT, {"name": "bob"}),
        (notices.left("bob", "timed out"), Event.LEFT, {"name": "bob", "reason": "timed out"}),
        (notices.renamed("bob", "bob-2"), Event.RENAMED, {"name": "bob-2"}),
        (
            notices.history(SAID_AT, SAID_AT.date(), "bob: a: b"),
            Event.HISTORY,
            {"name": "bob", "time": "13:05", "said": "a: b"},
        ),
        (
            notices.history(SAID_AT, datetime.date(2026, 11, 23), "bob:  x"),
            Event.HISTORY,
            {"name": "bob", "time": "2026-11-22 13:05", "said": " x"},
        ),
        (notices.client_count(1), Event.CLIENTS, {}),
        (notices.client_count(20), Event.CLIENTS, {}),
        ("bob", Event.CLIENTS, {"name": "bob"}),
        ("bob (you)", Event.CLIENTS, {"name": "bob"}),
        ("\\ping: a sign of life", Event.HELP, {}),
        (SHUTTING_DOWN, Event.SHUTDOWN, {}),
        ("something else entirely", Event.NOTICE, {}),
        ("[13:05] joined", Event.JOINED, {"name": "[13:05]"}),
        ("joined", Event.CLIENTS, {"name": "joined"}),
        ("left left", Event.LEFT, {"name": "left"}),
    ],
)
def test_notice_tells_programs_what_it_tells_people(
    text: str, event: Event, attributes: dict[str, str]
) -> None:
    notice, none = Notice(text), dict.fromkeys(("name", "reason", "time", "said"))
    assert notice.event is event
    assert {name: getattr(notice, name) for name in none} == none | attributes


def test_every_line_has_an_event_and_the_name_of_its_client() -> None:
    assert (Message("bob", "x").event, Message("bob", "x").name) == (Event.MESSAGE, "bob")
    assert (ServerError("x").event, ServerError("x").name) == (Event.ERROR, None)
    assert (Pong("x").event, Pong("x").name) == (Event.PONG, None)
    left = Notice("bob left (too slow)")
    assert (left.event, left.name, left.reason) == (Event.LEFT, "bob", "too slow")
    said = Notice("[13:05] bob: hi")
    assert (said.event, said.name, said.time, said.said) == (Event.HISTORY, "bob", "13:05", "hi")
