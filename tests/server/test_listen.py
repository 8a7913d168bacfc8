"""Listening: addresses, ports, and the errors about them."""

from __future__ import annotations

import asyncio
import logging
import socket

import pytest
from helpers import MakeServer, count_open_files, linux_only

from broadcast import BroadcastServer, ListenError


class TestListening:
    async def test_ipv4_and_ipv6_clients_share_one_room_on_one_port(
        self, make_server: MakeServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        both = [
            (socket.AF_INET6, 1, 6, "", ("::1", 0, 0, 0)),
            (socket.AF_INET, 1, 6, "", ("127.0.0.1", 0)),
        ]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: both)
        server = await make_server(host="localhost", notices=False)
        six = await asyncio.open_connection("::1", server.port)
        four = await asyncio.open_connection("127.0.0.1", server.port)
        for name, (reader, writer) in (("six", six), ("four", four)):
            writer.write(f"CONNECT {name}\n".encode())
            assert await reader.readline() == b"SUCCESS\r\n"
        six[1].write(b"hello\n")
        assert await four[0].readline() == b"six: hello\r\n"
        for _, writer in (six, four):
            writer.close()

    @linux_only("127.0.0.2 is not reachable elsewhere")
    async def test_empty_host_listens_on_every_interface(
        self, make_server: MakeServer, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO, "broadcast")
        server = await make_server(host="")
        assert f"listening on 0.0.0.0:{server.port}" in caplog.text
        for address in ("127.0.0.1", "127.0.0.2"):
            _, writer = await asyncio.open_connection(address, server.port)
            writer.close()

    @linux_only("the error has another wording elsewhere")
    async def test_unavailable_address_is_skipped_unless_it_is_the_only_one(
        self, make_server: MakeServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        missing, there = (
            (socket.AF_INET, 1, 6, "", ("192.0.2.1", 0)),
            (socket.AF_INET, 1, 6, "", ("127.0.0.1", 0)),
        )
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [missing, there])
        await make_server(host="half-there")
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [missing])
        with pytest.raises(ListenError, match="Cannot assign requested address"):
            await make_server(host="not-there")

    @linux_only("counts open files in /proc")
    async def test_port_in_use_is_reported_with_its_address(self, server: BroadcastServer) -> None:
        before = count_open_files()
        with pytest.raises(
            ListenError, match=f"^can't listen on 127.0.0.1:{server.port}: Address already in use$"
        ):
            await BroadcastServer(port=server.port).start()
        assert count_open_files() == before

    @pytest.mark.parametrize("host", ["nowhere.invalid", "x" * 64 + ".invalid", "256.1.1.1"])
    async def test_bad_host_raises_listen_error(self, host: str) -> None:
        with pytest.raises(ListenError, match=rf"^can't listen on {host}:0: "):
            await BroadcastServer(host, 0).start()

    @pytest.mark.parametrize(
        "limit", ["timeout", "backlog", "grace", "handshake_timeout", "line_limit"]
    )
    def test_limit_of_zero_raises_value_error(self, limit: str) -> None:
        with pytest.raises(ValueError, match=f"^{limit} must be above 0, not 0$"):
            BroadcastServer(**{limit: 0})  # type: ignore[arg-type]

    @pytest.mark.parametrize("port", [-1, 65_536])
    def test_port_that_does_not_exist_raises_value_error(self, port: int) -> None:
        with pytest.raises(ValueError, match=f"^port must be from 0 to 65535, not {port}$"):
            BroadcastServer(port=port)

    def test_negative_history_raises_value_error(self) -> None:
        with pytest.raises(ValueError, match="^history must be 0 or more, not -1$"):
            BroadcastServer(history=-1)


@pytest.mark.parametrize(
    ("options", "warning"),
    [
        ({}, "anyone who reaches this port"),
        ({"token": "x"}, "traffic, including the token, can be intercepted"),
    ],
)
async def test_exposure_beyond_loopback_is_logged_once(
    make_server: MakeServer, caplog: pytest.LogCaptureFixture, options: dict[str, str], warning: str
) -> None:
    await make_server(**options)
    assert caplog.records == []
    await make_server(host="", **options)
    assert len(caplog.records) == 1 and warning in caplog.text
