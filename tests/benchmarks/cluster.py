"""Compare a server in a cluster with one alone: `python3 tests/benchmarks/cluster.py --help`.

Each row runs both alternately, with a fresh Redis for each run in a cluster, and prints both
figures and their ratio. The load and the servers are those of `fanout.py`. Needs Linux and a
redis-server (or Valkey, as `--redis valkey-server`).
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from fanout import STREAMS, Row, explained, machine
from load import Load
from servers import HOST, LOAD_CORE, SERVER_CORE, Redis, Running, Server, run

CORES = sorted(os.sched_getaffinity(0))
REDIS_CORE = CORES[1] if len(CORES) > 2 else LOAD_CORE
SECOND_CORE = CORES[2] if len(CORES) > 3 else SERVER_CORE
"""The cores of Redis and of the second server: the load's and the first server's where there are
too few."""

PRIORITY = -15
"""Nice value of what goes first where two share a core: Redis before the load, which polls all the
time, and the server of the receivers before the sender's, as if each had a core of its own. Without
it, the figures tell how the system schedules the two."""

JOINS = 1_000
JOIN_GROUP = 50
"""Clients that join, and how many do so at the same time."""

CHAT_TIME = 5.0
CHAT_RATE = 200
"""Seconds, and messages a second, of the row that measures what a message costs Redis."""

FLEETS = (2, 4, 8, 16)
"""Servers of a room in that row."""

IDLE_TIME = 6.0
"""Seconds in which nobody says anything: a few heartbeats of a server."""

WIDE = Row("1 sender flat out, 200 receivers", 1, 200)


class Engine(Redis):
    """A Redis for a cluster."""

    def __init__(self, program: str, appendonly: bool) -> None:
        self.program = program
        self._persistence = "yes" if appendonly else "no"

    def command(self, program: str, directory: Path, port: int) -> list[str]:
        return [*super().command(program, directory, port), "--appendonly", self._persistence]


class Clustered(Server):
    """Our server in a cluster."""

    name = "in a cluster"

    def __init__(self, redis: Running, *options: str) -> None:
        self.options = (*self.options, "--cluster", f"redis://{HOST}:{redis.port}", *options)


class Fleet(Running):
    """Some servers as one; clients connect to that of `port`."""

    def __init__(self, servers: Sequence[Running]) -> None:
        self.servers = servers
        self.pid, self.port = servers[0].pid, servers[0].port

    def cpu(self) -> float:
        return sum(server.cpu() for server in self.servers)

    def memory(self, field: str) -> int:
        return max(server.memory(field) for server in self.servers)

    def open_files(self) -> int:
        return sum(server.open_files() for server in self.servers)


@dataclass
class Setting:
    """Running servers, the Redis that they share, and a load on them."""

    load: Load
    fleet: Fleet
    redis: Running | None

    def redis_cpu(self) -> float:
        return self.redis.cpu() if self.redis else 0.0


Figures = dict[str, float]
Measure = Callable[[Setting], Figures]
Start = Callable[[], contextlib.AbstractContextManager[Setting]]


# --- settings ---


@contextlib.contextmanager
def alone() -> Iterator[Setting]:
    server = Server()
    with run(server) as running, Load(server, fleet := Fleet([running])) as load:
        yield Setting(load, fleet, None)


def prefer(running: Running) -> None:
    """Have the system run this first, if it allows that."""
    with contextlib.suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, running.pid, PRIORITY)


@contextlib.contextmanager
def clustered(engine: Engine, servers: int = 1, *options: str) -> Iterator[Setting]:
    """Run some servers in a cluster of their own."""
    with contextlib.ExitStack() as stack:
        redis = stack.enter_context(run(engine, REDIS_CORE))
        server = Clustered(redis, *options)
        cores = [SERVER_CORE, *[SECOND_CORE] * (servers - 1)]
        fleet = Fleet([stack.enter_context(run(server, core)) for core in cores])
        if REDIS_CORE == LOAD_CORE:
            prefer(redis)
        if servers > 1 and SECOND_CORE == SERVER_CORE:
            prefer(fleet)
        yield Setting(stack.enter_context(Load(server, fleet)), fleet, redis)


# --- measures ---


def measure_stream(row: Row, seconds: float, setting: Setting) -> Figures:
    """Measure a stream; with two servers, the sender is at one and the receivers at the other."""
    load, fleet = setting.load, setting.fleet
    receivers = load.join([f"r{number:04}" for number in range(row.receivers)])
    fleet.port = fleet.servers[-1].port
    senders = load.join([f"s{number:04}" for number in range(row.senders)], receive=False)
    load.settle()
    redis = setting.redis_cpu()
    stream = load.stream(senders, receivers, seconds, row.rate)
    deliveries = max(stream.deliveries, 1)
    return {
        "CPU us/delivery": stream.cost,
        "wall us/delivery": stream.seconds * 1e6 / deliveries,
        "p50 ms": stream.percentile(50),
        "p99 ms": stream.percentile(99),
        "lost": stream.lost,
        "Redis CPU us/message": (setting.redis_cpu() - redis) * 1e6 * row.receivers / deliveries,
        "Redis peak MB": setting.redis.memory("VmHWM") / 1e6 if setting.redis else 0,
    }


def measure_redis(setting: Setting) -> Figures:
    """Measure what a message costs Redis, when each is an entry of its own."""
    [reader], [sender] = setting.load.join(["reader"]), setting.load.join(["s"], receive=False)
    setting.load.settle()
    before = setting.redis_cpu()
    stream = setting.load.stream([sender], [reader], CHAT_TIME, CHAT_RATE)
    return {
        "Redis CPU us/message": (setting.redis_cpu() - before) * 1e6 / max(stream.deliveries, 1),
        "lost": stream.lost,
    }


def measure_joins(setting: Setting) -> Figures:
    names = [f"j{number:04}" for number in range(JOINS)]
    cpu, start = setting.load.running.cpu(), time.monotonic()
    joined = setting.load.join(names, group=JOIN_GROUP)
    seconds = time.monotonic() - start
    assert not any(peer.gone for peer in joined)
    return {
        "joins/s": JOINS / seconds,
        "CPU us/join": (setting.load.running.cpu() - cpu) * 1e6 / JOINS,
    }


def measure_idle(setting: Setting) -> Figures:
    """Measure what an empty room costs."""
    time.sleep(1)  # what starting costs is not counted
    cpu, redis_cpu, start = setting.fleet.cpu(), setting.redis_cpu(), time.monotonic()
    time.sleep(IDLE_TIME)
    seconds = time.monotonic() - start
    return {
        "CPU % of a core": (setting.fleet.cpu() - cpu) / seconds * 100,
        "Redis CPU % of a core": (setting.redis_cpu() - redis_cpu) / seconds * 100,
    }


def measure_processes(seconds: float, setting: Setting) -> Figures:
    """Measure deliveries, and how many there are per second of the process that works most."""
    load, servers = setting.load, setting.fleet.servers
    receivers = load.join([f"r{number:04}" for number in range(WIDE.receivers)])
    senders = load.join(["s0000"], receive=False)
    load.settle()
    before = [server.cpu() for server in servers]
    stream = load.stream(senders, receivers, seconds, None)
    busiest = max(server.cpu() - cpu for server, cpu in zip(servers, before, strict=True))
    return {
        "deliveries/s": stream.deliveries / max(stream.seconds, 1e-9),
        "deliveries/s of the busiest core": stream.deliveries / max(busiest, 1e-9),
        "lost": stream.lost,
    }


# --- the rows ---


@dataclass(frozen=True)
class Comparison:
    """One thing that is measured in two or more settings; the first is what is compared with."""

    title: str
    settings: dict[str, Start]
    measure: Measure
    bounds: dict[str, tuple[str, ...]]  # figure -> a bound on the ratio for each other setting


def comparisons(engine: Engine, seconds: float) -> dict[str, Comparison]:
    one, two = (functools.partial(clustered, engine, number) for number in (1, 2))
    cluster: dict[str, Start] = {"alone": alone, "in a cluster": one}
    across: dict[str, Start] = {**cluster, "across two": two}
    with socket.create_server((HOST, 0)) as free:
        shared = ("--reuse-port", "--port", str(free.getsockname()[1]))
    processes: dict[str, Start] = {
        "1 process": functools.partial(clustered, engine, 1, *shared),
        "2 processes": functools.partial(clustered, engine, 2, *shared),
    }
    streams = {
        name: functools.partial(measure_stream, STREAMS[name], seconds)
        for name in ("one", "all", "paced")
    }
    return {
        "one": Comparison(
            STREAMS["one"].title,
            cluster,
            streams["one"],
            {"CPU us/delivery": ("<= 1.15",), "wall us/delivery": ("<= 1.3",)},
        ),
        "all": Comparison(STREAMS["all"].title, cluster, streams["all"], {}),
        "paced": Comparison(
            STREAMS["paced"].title,
            across,
            streams["paced"],
            {"CPU us/delivery": ("<= 1.35", ""), "p50 ms": ("<= 1.7", "<= 1.8")},
        ),
        "joins": Comparison(
            f"{JOINS:,} clients join, {JOIN_GROUP} at a time",
            cluster,
            measure_joins,
            {"joins/s": (">= 0.7",)},
        ),
        "redis": Comparison(
            f"{CHAT_RATE} messages a second, some servers",
            {f"{count} servers": functools.partial(clustered, engine, count) for count in FLEETS},
            measure_redis,
            {},
        ),
        "idle": Comparison("nobody is there", across, measure_idle, {}),
        "processes": Comparison(
            f"{WIDE.title}, --reuse-port",
            processes,
            functools.partial(measure_processes, seconds),
            {"deliveries/s": (">= 1.6",)},
        ),
    }


def print_comparison(comparison: Comparison, rounds: int) -> None:
    """Measure in all settings alternately; print the medians, and their ratios to the first."""
    results: dict[str, list[Figures]] = {name: [] for name in comparison.settings}
    for name, start in [*comparison.settings.items()] * rounds:
        print(f"  {name} ...", end="\r", flush=True)
        with start() as setting:
            results[name].append(comparison.measure(setting))
    first, *others = results
    ratios = "".join(f"{name:>16}{'ratio':>8}{'bound':>9}" for name in others)
    print(f"\n{comparison.title}\n{'':34}{first:>16}{ratios}")
    for figure in results[first][0]:
        values = {name: median(result[figure] for result in results[name]) for name in results}
        bounds = comparison.bounds.get(figure, ("",) * len(others))
        line = f"{figure:34}{values[first]:16,.4g}"
        for name, bound in zip(others, bounds, strict=True):
            ratio = f"{values[name] / values[first]:.2f}" if values[first] else "-"
            line += f"{values[name]:16,.4g}{ratio:>8}{bound:>9}"
        print(line, flush=True)


def main() -> None:
    rows = ("one", "all", "paced", "joins", "redis", "idle", "processes")
    parser = argparse.ArgumentParser(
        description="Measure this server in a cluster beside the same one alone."
    )
    parser.add_argument("--rows", nargs="+", choices=rows, default=rows, metavar="ROW")
    parser.add_argument("--rounds", type=int, default=3, choices=range(1, 10))
    parser.add_argument("--seconds", type=int, default=4, choices=range(1, 11), metavar="S")
    parser.add_argument("--redis", default="redis-server", metavar="PROGRAM")
    parser.add_argument("--appendonly", action="store_true", help="let Redis write to disk")
    options = parser.parse_args()
    print(machine())
    os.sched_setaffinity(0, {LOAD_CORE})
    print(
        f"load on core {LOAD_CORE}, server on {SERVER_CORE}, Redis on {REDIS_CORE}, second server "
        f"on {SECOND_CORE}"
        + "\nWhere two share a core, Redis goes before the load, and the server of the receivers "
        f"before the sender's (nice {PRIORITY}, for root only)"
        * (len(CORES) <= 3)
        + "\nThese are too few cores: `processes` says little here" * (len(CORES) <= 3)
    )
    engine = Engine(options.redis, options.appendonly)
    for name, comparison in comparisons(engine, options.seconds).items():
        if name in options.rows:
            with explained(engine):
                print_comparison(comparison, options.rounds)


if __name__ == "__main__":
    main()
