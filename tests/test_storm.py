"""A hundredth of `tests/benchmarks/storm.py`: two clients talk while others misbehave."""

from __future__ import annotations

from helpers import MakeServer
from storm import storm


async def test_two_clients_miss_nothing_while_a_thousand_misbehave(make_server: MakeServer) -> None:
    server = await make_server(timeout=5)
    report = await storm(server.port, 1000, seed=1)
    assert not report.missed
    assert report.messages > 0
