"""Compare this server with the alternatives: `python3 tests/benchmarks/fanout.py --help`.

Each server is a process on a core of its own, and this process drives it from another core. Each
row restarts the servers, and gives the same work to all of them. The benchmark needs Linux, and
nothing but Python; a server that is not installed is named and left out.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import datetime
import functools
import math
import os
import platform
import resource
import socket
import ssl
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev

import chart
from load import GROUP, Load, Peer, StalledError, Stream
from servers import (
    CERTIFICATE,
    HOST,
    LOAD_CORE,
    SERVER_CORE,
    Nats,
    Ncat,
    Redis,
    Server,
    Sink,
    Textbook,
    UnavailableError,
    WithNotices,
    WithTLS,
    run,
)

OURS = Server()
SERVERS = (OURS, Ncat(), Redis(), Nats(), Textbook())

QUIET_CLIENTS = 10_000
HEARTBEAT_TIME = 10.0
"""Seconds between two heartbeats of a quiet client; our client waits three times as long."""

RUSH_CLIENTS = 1_000

HELD_CLIENTS = 500
"""Clients in the row that compares plain TCP and TLS."""

QUESTIONS = 200

PAIR_TIME = 1.0
"""Seconds of a stream when two versions are compared: many short pairs tell more than few long
ones, because what slows the machine down then affects both of a pair."""


@dataclass(frozen=True)
class Row:
    """A stream of messages: how many clients send and receive, and messages a second.

    The rate is None at full speed.
    """

    title: str
    senders: int
    receivers: int
    seconds: float = 4.0
    rate: int | None = None


STREAMS = {
    "one": Row("1 sender flat out, 100 receivers", 1, 100),
    "all": Row("50 clients, all sending flat out to all", 50, 50),
    "paced": Row("1 sender, 1,000 messages a second, 100 receivers", 1, 100, rate=1_000),
    "wide": Row("1 sender, 50 messages a second, 1,000 receivers", 1, 1_000, rate=50),
}
ROWS = (*STREAMS, "quiet", "rush", "tls")
MAIN_ROWS = ("one", "all")


@contextlib.contextmanager
def driven(server: Server) -> Iterator[Load]:
    """Run a server and a load for it."""
    with run(server) as running, Load(server, running) as load:
        yield load


# --- the rows ---


def measure_stream(server: Server, row: Row) -> Stream:
    """Measure a stream; if as many clients send as receive, they are the same ones."""
    with driven(server) as load:
        receivers = load.join([f"r{number:04}" for number in range(row.receivers)])
        if row.senders == row.receivers and not server.senders_apart:
            senders = receivers
        else:
            senders = load.join([f"s{number:04}" for number in range(row.senders)], receive=False)
        load.settle()
        return load.stream(senders, receivers, row.seconds, row.rate)


def print_stream(row: Row, servers: Sequence[Server], rounds: int) -> dict[str, float]:
    """Measure a row, and print the cheapest round of each server with the losses of all rounds.

    Return microseconds of CPU per delivery by server.
    """
    print(f"\n{row.title}, messages of 100 bytes")
    print(
        f"{'':18}{'deliveries/s':>14}{'CPU us/delivery':>17}{'to ours':>9}{'p50 ms':>9}"
        f"{'p99 ms':>9}{'peak MB':>9}{'lost':>9}{'dropped':>9}"
    )
    results: dict[str, list[Stream]] = {}
    for server in [
        *servers
    ] * rounds:  # alternately, so that a busy moment of the machine affects all
        with explained(server):
            result = measure_stream(server, row)
            results.setdefault(server.name, []).append(result)
    costs = {name: min(stream.cost for stream in streams) for name, streams in results.items()}
    for name, streams in results.items():
        best = min(streams, key=lambda stream: stream.cost)
        ratio = f"{best.cost / costs[OURS.name]:.2f}" if OURS.name in costs else "-"
        lost, dropped = (
            sum(stream.lost for stream in streams),
            sum(stream.dropped for stream in streams),
        )
        print(
            f"{name:18}{best.deliveries / max(best.seconds, 1e-9):14,.0f}{best.cost:17.4f}"
            f"{ratio:>9}{best.percentile(50):9.2f}{best.percentile(99):9.2f}"
            f"{max(stream.peak for stream in streams) / 1e6:9.1f}{lost:9,}{dropped:9,}"
            + "  gave up: no progress for 10 s"
            * any(stream.stalled for stream in streams),
            flush=True,
        )
    return costs


class OtherVersion(Server):
    """Our server, from another folder."""

    name = "the other version"

    def __init__(self, source: Path) -> None:
        self.source = source.resolve()


def print_ratio(row: Row, other: Server, pairs: int) -> None:
    """Measure a row with this version and another one, in pairs, and print the ratio of CPU time.

    The ratio is the geometric mean over all pairs, with its 95 % interval. A pair in which clients
    were dropped is left out: the machine did not let the load run for a second.
    """
    row = dataclasses.replace(row, seconds=PAIR_TIME)
    logarithms: list[float] = []
    for number in range(pairs):
        order = (OURS, other) if number % 2 else (other, OURS)
        streams = {server: measure_stream(server, row) for server in order}
        if not any(stream.dropped or stream.stalled for stream in streams.values()):
            logarithms.append(math.log(streams[OURS].cost / streams[other].cost))
    if len(logarithms) < 2:
        print(f"{row.title}: too few pairs in which no client was dropped")
        return
    ratio, count = math.exp(fmean(logarithms)), len(logarithms)
    margin = 1.96 * stdev(logarithms) / math.sqrt(count)
    print(
        f"{row.title}: {ratio:.3f} times the other version's CPU per delivery (95 %: "
        f"{ratio * math.exp(-margin):.3f} to {ratio * math.exp(margin):.3f}, {count} pairs)",
        flush=True,
    )


class Prober:
    """A client that asks again as soon as it has its answer, to detect pauses of the server."""

    def __init__(self, load: Load) -> None:
        self.longest = 0.0  # seconds
        self.question = load.server.question  # empty: it asks nothing more
        [self._peer] = load.join(["prober"])
        self._peer.handler = self._answered
        self._ask()

    def _ask(self) -> None:
        self._asked = time.monotonic()
        self._peer.socket.send(self.question)

    def _answered(self, peer: Peer, data: memoryview) -> None:
        self.longest = max(self.longest, time.monotonic() - self._asked)
        self._ask()


def print_quiet(servers: Sequence[Server]) -> None:
    """Let many clients of one name join and stay, and print what each costs."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    clients = QUIET_CLIENTS if limit == resource.RLIM_INFINITY else min(QUIET_CLIENTS, limit - 100)
    fewer = f" ({QUIET_CLIENTS:,} need a higher `ulimit -n`)" * (clients < QUIET_CLIENTS)
    print(
        f"\n{clients:,} clients, all anonymous{fewer}, {GROUP} joining at a time, then one "
        f"heartbeat each within {HEARTBEAT_TIME:.0f} s"
    )
    print(
        f"{'':18}{'KB each':>9}{'first 1,000 s':>15}{'last 1,000 s':>14}"
        f"{'longest pause ms':>18}{'heartbeats CPU s':>18}{'to bare':>9}"
    )
    bare = 0.0
    for server in (Sink(), *servers):
        if not server.heartbeat:
            print(f"{server.name:18}has no heartbeat")
            continue
        with explained(server), driven(server) as load:
            prober = Prober(load)
            before, times = load.running.memory("VmRSS"), [time.monotonic()]
            peers: list[Peer] = []
            while len(peers) < clients:
                peers += load.join(
                    ["" if server is OURS else "anonymous"] * min(1_000, clients - len(peers))
                )
                times.append(time.monotonic())
            longest = f"{prober.longest * 1e3:.1f}" if server.question else "-"
            prober.question = b""
            load.settle()
            memory, cpu, start = (
                load.running.memory("VmRSS") - before,
                load.running.cpu(),
                time.monotonic(),
            )
            for number, peer in enumerate(peers):
                time.sleep(max(0.0, start + HEARTBEAT_TIME * number / clients - time.monotonic()))
                peer.socket.send(server.heartbeat)
            time.sleep(0.2)
            cpu = load.running.cpu() - cpu
            bare = bare or cpu
            print(
                f"{server.name:18}{memory / 1e3 / clients:9.2f}{times[1] - times[0]:15.2f}"
                f"{times[-1] - times[-2]:14.2f}"
                f"{longest:>18}{cpu:18.3f}{cpu / bare:9.2f}",
                flush=True,
            )


def print_rush() -> None:
    """Let many clients join at once with notices on.

    Check that each is notified of every later one, once, in the same order for all.
    """
    names = [f"n{number:04}" for number in range(RUSH_CLIENTS)]
    print(f"\n{RUSH_CLIENTS:,} clients joining at once, notices on (the peers have none)")
    with explained(OURS), driven(WithNotices()) as load:
        start = time.monotonic()
        peers = load.join(names, group=RUSH_CLIENTS)
        everyone_in = time.monotonic() - start
        expected = len(names) * len("SUCCESS\r\n") + len(names) * (len(names) - 1) // 2 * len(
            "* n0000 joined\r\n"
        )
        with contextlib.suppress(StalledError):
            load.until(lambda: load.received >= expected)
        everyone_told = time.monotonic() - start
        load.settle()
        told = {
            peer.name: [line.split()[1].decode() for line in peer.kept.split(b"\r\n")[1:-1]]
            for peer in peers
        }
        order = sorted(told, key=lambda name: len(told[name]), reverse=True)
        right = sum(told[name] == order[place + 1 :] for place, name in enumerate(order))
        print(
            f"{OURS.name:18}all in after {everyone_in:.2f} s, all told after "
            f"{everyone_told:.2f} s;",
            end=" ",
        )
        print(f"told of each later join exactly once: {right:,} of {len(names):,}")


def print_tls() -> None:
    """Let clients join over plain TCP and over TLS, and print the memory that each takes up."""
    context = ssl.create_default_context(cafile=CERTIFICATE)
    print(f"\n{HELD_CLIENTS:,} clients that join, and then ask {QUESTIONS:,} times each")
    print(f"{'':18}{'KB each':>9}{'then':>9}")
    for server in (OURS, WithTLS()):
        with explained(server), run(server) as running, contextlib.ExitStack() as stack:
            join = functools.partial(join_held, server, running.port, context)
            with join():
                before = running.memory("VmRSS")  # with what is allocated only once
            clients = [stack.enter_context(join()) for _ in range(HELD_CLIENTS)]
            quiet = running.memory("VmRSS")
            for client in clients:
                client.sendall(server.question * QUESTIONS)
                receive_lines(client, QUESTIONS)
            used = running.memory("VmRSS")
            each = [f"{(memory - before) / 1e3 / HELD_CLIENTS:9.2f}" for memory in (quiet, used)]
            print(f"{server.name:18}{''.join(each)}", flush=True)


def join_held(server: Server, port: int, context: ssl.SSLContext) -> socket.socket:
    """Return a connection that has joined, over TLS if that is what the server expects."""
    client = socket.create_connection((HOST, port), timeout=10)
    if isinstance(server, WithTLS):
        client = context.wrap_socket(client, server_hostname="localhost")
    client.sendall(server.hello("", receives=True))
    receive_lines(client, 1)
    return client


def receive_lines(client: socket.socket, count: int) -> None:
    while count > 0:
        data = client.recv(65_536)
        if not data:
            raise OSError("the server has closed the connection")
        count -= data.count(b"\n")


@contextlib.contextmanager
def explained(server: Server) -> Iterator[None]:
    """Print why a server was not measured."""
    try:
        yield
    except (UnavailableError, OSError) as problem:
        print(f"{server.name:18}{problem}")
    except StalledError:
        print(f"{server.name:18}gave up: no progress for 10 s")


# --- the program ---


def machine() -> str:
    """Return the machine and the date of the measurement."""
    models = [
        line.partition(": ")[2]
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    model, release = (models or [platform.machine()])[0], platform.release().partition("-")[0]
    where = f"{model}, {os.cpu_count()} cores, Linux {release}"
    return f"{where}, Python {platform.python_version()}, {datetime.date.today()}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Measure this server beside ncat, Redis, NATS and the textbook's; "
        "about a minute."
    )
    parser.add_argument("--all", action="store_true", help="every row: some three minutes")
    parser.add_argument(
        "--rows",
        nargs="+",
        choices=ROWS,
        default=MAIN_ROWS,
        metavar="ROW",
        help=f"these rows, of {', '.join(ROWS)}",
    )
    parser.add_argument(
        "--rounds",
        type=int,
        default=1,
        choices=range(1, 1_000),
        metavar="N",
        help="of each stream, of which the cheapest is shown",
    )
    parser.add_argument(
        "--against",
        type=Path,
        metavar="DIR",
        help="compare the streams with another version of this server instead, in N pairs",
    )
    parser.add_argument(
        "--svg", type=Path, metavar="FILE", help="draw the rows `one` and `all` into a file"
    )
    options = parser.parse_args()
    rows = ROWS if options.all else options.rows
    print(machine())
    os.sched_setaffinity(0, {LOAD_CORE})
    print(
        f"servers on core {SERVER_CORE}, load on core {LOAD_CORE}"
        + " (one core for both: figures of little worth)" * (SERVER_CORE == LOAD_CORE)
    )
    if options.against:
        if options.rounds < 2:
            parser.error("--against needs --rounds, at least 2")
        for name in STREAMS:
            if name in rows:
                print_ratio(STREAMS[name], OtherVersion(options.against), options.rounds)
        return
    costs = {
        row.title: print_stream(row, SERVERS, options.rounds)
        for name, row in STREAMS.items()
        if name in rows
    }
    if "quiet" in rows:
        print_quiet(SERVERS)
    if "rush" in rows:
        print_rush()
    if "tls" in rows:
        print_tls()
    if options.svg:
        drawn = {
            title: costs[title]
            for title in (STREAMS[name].title for name in MAIN_ROWS)
            if title in costs
        }
        options.svg.write_text(chart.draw(drawn, machine()), encoding="utf-8")


if __name__ == "__main__":
    main()
