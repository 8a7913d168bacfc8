"""The registry of names in use: unique, numbered, released."""

from __future__ import annotations

import random
import time

from broadcast.protocol.names import name_key
from broadcast.server.registry import PAGE_LINES, Registry


def test_taken_name_gets_the_lowest_free_number_from_two() -> None:
    registry = Registry()
    assert [registry.claim("Attila") for _ in range(4)] == [
        "Attila",
        "Attila-2",
        "Attila-3",
        "Attila-4",
    ]
    registry.release("Attila-3")
    registry.release("Attila-2")
    assert [registry.claim("Attila") for _ in range(3)] == ["Attila-2", "Attila-3", "Attila-5"]
    registry.release("Attila")
    assert registry.claim("Attila") == "Attila"


def test_names_are_unique_by_what_they_look_like() -> None:
    registry = Registry()
    assert [registry.claim(name) for name in ("Attila", "ATTILA", "\uff21ttila")] == [
        "Attila",
        "ATTILA-2",
        "\uff21ttila-3",
    ]


def test_numbers_that_clients_chose_are_skipped_until_they_are_free() -> None:
    registry = Registry()
    assert registry.claim("a-2") == "a-2"
    assert registry.claim("a") == "a"
    assert registry.claim("a") == "a-3"
    registry.release("a-2")
    assert registry.claim("A-2") == "A-2"
    assert registry.claim("a") == "a-4"
    registry.release("A-2")
    assert registry.claim("a") == "a-2"
    assert registry.claim("a-2") == "a-2-2"


def test_number_may_exceed_the_length_limit_of_names() -> None:
    registry = Registry()
    registry.claim("x" * 32)
    assert registry.claim("x" * 32) == "x" * 32 + "-2"


def test_roster_lists_names_in_the_order_of_their_keys() -> None:
    registry = Registry()
    assert b"".join(registry.pages()) == b""
    for name in ("Bob", "anna", "bob", "Zoë", "carl"):
        registry.claim(name)
    assert len(registry) == 5
    listing = "* anna\r\n* Bob\r\n* bob-2\r\n* carl\r\n* Zoë\r\n"
    assert b"".join(registry.pages()) == listing.encode()
    registry.release("BOB")
    registry.release("Zoë")
    assert b"".join(registry.pages()) == b"* anna\r\n* bob-2\r\n* carl\r\n"


def test_roster_pages_are_bounded_and_show_the_current_names() -> None:
    registry = Registry()
    for number in range(2 * PAGE_LINES):
        registry.claim(f"n{number:05}")
    pages = registry.pages()
    assert next(pages).count(b"\r\n") == PAGE_LINES
    registry.release(f"n{PAGE_LINES:05}")
    registry.release("n00000")
    registry.claim("n99999")
    rest = b"".join(pages).decode().split("\r\n")[:-1]
    expected = [f"* n{number:05}" for number in range(PAGE_LINES + 1, 2 * PAGE_LINES)]
    assert rest == [*expected, "* n99999"]


def test_page_is_made_once_until_the_roster_changes() -> None:
    registry = Registry()
    registry.claim("anna")
    assert next(registry.pages()) is next(registry.pages())
    registry.claim("bob")
    assert b"".join(registry.pages()) == b"* anna\r\n* bob\r\n"


def test_random_rosters_are_sorted() -> None:
    chance = random.Random(5)
    registry, present = Registry(), set[str]()
    for _ in range(2_000):
        if present and chance.random() < 0.4:
            name = chance.choice(sorted(present))
            registry.release(name)
            present.remove(name)
        else:
            present.add(registry.claim("".join(chance.choices("abAB-2é", k=3))))
        expected = [f"* {name}\r\n" for name in sorted(present, key=name_key)]
        assert b"".join(registry.pages()) == "".join(expected).encode()
        assert len(registry) == len(present)


def test_registry_keeps_nothing_of_released_names() -> None:
    registry = Registry()
    for _ in range(3):
        names = [registry.claim(name) for name in ("a", "a", "a-3", "a", "a-2", "a-07", "a-02")]
        for name in names:
            registry.release(name)
            registry.release(name)
    assert len(registry) == 0 and b"".join(registry.pages()) == b""
    assert not registry._suffixes


def test_ten_thousandth_client_of_a_name_is_as_quick_as_the_first() -> None:
    registry = Registry()

    def claim(count: int) -> float:
        began = time.perf_counter()
        for _ in range(count):
            registry.claim("anonymous")
        return time.perf_counter() - began

    early = min(claim(500) for _ in range(3))
    claim(20_000)
    late = min(claim(500) for _ in range(3))
    assert late < 10 * early, "a search would take a hundred times as long"
    assert len(registry) == 23_000
