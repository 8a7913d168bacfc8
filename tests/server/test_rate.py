"""The maximum rate: one second of lines may be saved up, and reconnecting does not help."""

from __future__ import annotations

import asyncio
import time

from helpers import Connect, MakeServer

from broadcast.server.rate import SWEEP_SIZE, RateLimiter


def test_one_second_of_lines_passes_immediately_and_the_rest_at_the_rate() -> None:
    limiter = RateLimiter(10)
    used = limiter.use(limiter.enter("x", 100.0), 10, now=100.0)
    assert used == 100.0
    assert limiter.use(used, 5, now=100.0) == 100.5


def test_client_that_reconnects_keeps_its_debt() -> None:
    limiter = RateLimiter(10)
    used = limiter.use(limiter.enter("x", 100.0), 15, now=100.0)
    limiter.leave("x", used, now=100.0)
    assert limiter.use(limiter.enter("x", 100.0), 1, now=100.0) == 100.6
    assert limiter.use(limiter.enter("y", 100.0), 1, now=100.0) < 100.0


def test_only_one_newcomer_of_an_address_begins_with_a_burst() -> None:
    limiter = RateLimiter(10)
    assert limiter.use(limiter.enter("x", 100.0), 10, now=100.0) == 100.0
    assert limiter.use(limiter.enter("x", 100.0), 10, now=100.0) == 101.0
    assert limiter.use(limiter.enter("x", 101.0), 10, now=101.0) == 101.0


def test_debt_of_a_client_that_left_is_at_most_a_second() -> None:
    limiter = RateLimiter(10)
    limiter.leave("x", 500.0, now=100.0)
    assert limiter.enter("x", 100.0) == 101.0


def test_addresses_that_no_longer_matter_are_forgotten() -> None:
    limiter = RateLimiter(10)
    for number in range(10 * SWEEP_SIZE):
        limiter.leave(f"{number}", float(number), now=float(number))
    assert len(limiter._used_until) <= SWEEP_SIZE


def test_crowd_of_addresses_that_still_matter_costs_no_more_for_each_client() -> None:
    limiter, began = RateLimiter(10), time.process_time()
    for number in range(40 * SWEEP_SIZE):
        limiter.leave(f"{number}", 100.0, now=100.0)
    assert time.process_time() - began < 1.0


async def test_reconnecting_does_not_bypass_the_maximum_rate(
    make_server: MakeServer, connect: Connect
) -> None:
    server = await make_server(max_rate=20, notices=False)
    observer = await connect(server, "observer")
    began, seen = time.monotonic(), 0
    while time.monotonic() - began < 1.0:
        peer = await connect(server, "flooder")
        peer.send("x\n" * 50_000)
        await asyncio.sleep(0.02)
        peer.reset()
        seen += len(await observer.synchronise())
    elapsed = time.monotonic() - began
    assert seen <= 20 * (elapsed + 1) + 1
