"""Addresses: looked up, formatted, and the descriptions of errors."""

from __future__ import annotations

import asyncio
import socket
import ssl
from typing import cast

import pytest

from broadcast.net.address import describe_os_error, format_address, network_of, resolve


async def test_resolve_returns_each_address_once() -> None:
    addresses = await resolve("localhost", 80)
    assert len(addresses) == len(set(addresses)) > 0


async def test_resolve_raises_whatever_the_lookup_raises() -> None:
    async with asyncio.timeout(5):
        with pytest.raises(TypeError):
            await resolve(cast(str, 123), 80)


def test_ipv6_address_is_formatted_in_brackets() -> None:
    assert format_address(("127.0.0.1", 80)) == "127.0.0.1:80"
    assert format_address(("::1", 80, 0, 0)) == "[::1]:80"
    assert format_address(None) == "an unknown address"


def test_os_error_is_described_in_the_words_of_the_system() -> None:
    assert (
        describe_os_error(OSError(111, "Connect call failed ('127.0.0.1', 1)"))
        == "Connection refused"
    )
    assert (
        describe_os_error(socket.gaierror(8, "nodename nor servname provided"))
        == "nodename nor servname provided"
    )
    assert describe_os_error(OSError("could not bind")) == "could not bind"


def test_tls_error_is_described_without_a_line_of_the_source_of_openssl() -> None:
    context = ssl.create_default_context()
    arriving = ssl.MemoryBIO()
    arriving.write(b"not TLS\n")
    tls = context.wrap_bio(arriving, ssl.MemoryBIO(), server_hostname="localhost")
    with pytest.raises(ssl.SSLError, match=r"ssl\.c") as caught:
        tls.do_handshake()
    assert describe_os_error(caught.value) == "wrong version number"
    with pytest.raises(ssl.SSLError) as nameless:
        context.load_verify_locations(cadata="no certificate")
    assert describe_os_error(nameless.value) == ""


@pytest.mark.parametrize(
    ("peer", "network"),
    [
        ("127.0.0.1:6969", "127.0.0.1"),
        ("[2001:db8:0:1::2]:6969", "[20010db800000001]"),
        ("[fe80::1%eth0]:6969", "[fe80000000000000]"),
        ("an unknown address", ""),
    ],
)
def test_network_is_the_ipv4_address_or_the_ipv6_network(peer: str, network: str) -> None:
    assert network_of(peer) == network
