"""Addresses: each given once, shown as people write them, failures in the system's words."""

from __future__ import annotations

import socket

from broadcast.addresses import reason, resolve, show_address


async def test_an_address_is_given_once() -> None:
    addresses = await resolve("localhost", 80)
    assert len(addresses) == len(set(addresses)) > 0


def test_shows_addresses() -> None:
    assert show_address(("127.0.0.1", 80)) == "127.0.0.1:80"
    assert show_address(("::1", 80, 0, 0)) == "[::1]:80"
    assert show_address(None) == "an unknown address"


def test_gives_reasons_in_the_systems_words() -> None:
    assert reason(OSError(111, "Connect call failed ('127.0.0.1', 1)")) == "Connection refused"
    assert reason(socket.gaierror(8, "nodename nor servname provided")) == "nodename nor servname provided"
    assert reason(OSError("could not bind")) == "could not bind"
