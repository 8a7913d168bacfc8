"""What a notice says, as an event."""

from __future__ import annotations

import datetime

import pytest

from broadcast import Event, Message, Notice, Pong, ServerError
from broadcast.protocol import notices
from broadcast.protocol.handshake import SHUTTING_DOWN
from broadcast.protocol.notices import Details

SAID_AT = datetime.datetime(2026, 11, 22, 13, 5, 59)


@pytest.mark.parametrize(
    ("text", "details"),
    [
        (notices.joined("bob"), Details(Event.JOINED, "bob")),
        (notices.left("bob", ""), Details(Event.LEFT, "bob")),
        (notices.left("bob", "timed out"), Details(Event.LEFT, "bob", reason="timed out")),
        (notices.renamed("bob", "bob-2"), Details(Event.RENAMED, "bob-2")),
        (
            notices.history(SAID_AT, SAID_AT.date(), "bob: a: b"),
            Details(Event.HISTORY, "bob", time="13:05", said="a: b"),
        ),
        (
            notices.history(SAID_AT, datetime.date(2026, 11, 23), "bob:  x"),
            Details(Event.HISTORY, "bob", time="2026-11-22 13:05", said=" x"),
        ),
        (notices.client_count(1), Details(Event.CLIENTS)),
        (notices.client_count(20), Details(Event.CLIENTS)),
        ("bob", Details(Event.CLIENTS, "bob")),
        ("bob (you)", Details(Event.CLIENTS, "bob")),
        ("\\ping: a sign of life", Details(Event.HELP)),
        (SHUTTING_DOWN, Details(Event.SHUTDOWN)),
        ("something else entirely", Details(Event.NOTICE)),
        ("[13:05] joined", Details(Event.JOINED, "[13:05]")),
        ("joined", Details(Event.CLIENTS, "joined")),
        ("left left", Details(Event.LEFT, "left")),
    ],
)
def test_notice_tells_programs_what_it_tells_people(text: str, details: Details) -> None:
    assert Notice(text).details == details


def test_every_line_has_an_event_and_the_name_of_its_client() -> None:
    assert (Message("bob", "x").event, Message("bob", "x").name) == (Event.MESSAGE, "bob")
    assert (ServerError("x").event, ServerError("x").name) == (Event.ERROR, None)
    assert (Pong("x").event, Pong("x").name) == (Event.PONG, None)
    left = Notice("bob left (too slow)")
    assert (left.event, left.name, left.reason) == (Event.LEFT, "bob", "too slow")
    said = Notice("[13:05] bob: hi")
    assert (said.event, said.name, said.time, said.said) == (Event.HISTORY, "bob", "13:05", "hi")
