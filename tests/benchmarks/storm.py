"""Let a hundred thousand clients misbehave while two talk: `python3 tests/benchmarks/storm.py`.

The two, `left` and `right`, answer each other's numbered messages in lockstep. The exit status is
0 only if they miss none. The test suite runs a hundredth of it, by `storm`; the program needs
Linux, and nothing but Python.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

from sockets import reset_on_close

AT_ONCE = 200
"""Connections that misbehave at the same time."""

PATIENCE = 30.0
"""Seconds that an action of the server may take, with a margin for a busy machine."""

LINE_LIMIT = 65_536
"""The server's: bytes in a line."""

LONGEST = 2**18
"""Bytes in the longest line from the server: three times what was sent, and a name."""


@dataclass
class Report:
    """The result of a storm; everything was right if `missed` is empty."""

    connections: int = 0
    messages: int = 0  # between the two that behave
    worst: float = 0.0  # seconds for a message and its answer
    missed: list[str] = field(default_factory=list)  # what was wrong


def nasty(random: Random) -> list[bytes]:
    """Return the pieces that a hostile client sends, with a CONNECT line if it wants to join."""
    name = b"x%d" % random.getrandbits(30)
    hello = b"CONNECT %b\n" % name
    controls = bytes(random.sample([*range(0x20), *range(0x7F, 0xA0)], 60))
    cut = "\U0001f300 é € \u202e".encode() * random.randint(1, 20)
    where = random.randrange(len(cut))
    kinds: list[Callable[[], list[bytes]]] = [
        lambda: [random.randbytes(random.randint(1, 3_000)) for _ in range(random.randint(1, 4))],
        lambda: [b"half a line", b" and a bit"],
        lambda: [b"z" * 30_000] * random.randint(1, 10),  # a line without end
        lambda: [b"y" * (LINE_LIMIT + random.randint(-2, 3)) + b"\r\n"],
        lambda: [random.choice([b"\n", b"\r\n", b" \n", b"\r"]) * random.randint(1, 20_000)],
        lambda: [bytes(random.randint(1, 2_000)), b"\n"],
        lambda: [controls, b"\n", controls[:20] + b"\n"],
        lambda: [b"\xed\xa0\x80\xed\xbf\xbf lone surrogates\n"] * 3,
        lambda: [cut[:where], cut[where:] + b"\n"],  # well, but cut across packets
        lambda: [cut[:where] + b"\xe2", b"\x82", b"\n\xf0\x9f\n\x80\xff\xfe\n"],
        lambda: [hello, hello, b"CONNECT\n"],
        lambda: [
            random.choice([b"\\clients\n", b"\\exit\n", b"\\ping\n", b"\\help\n", b"\\nonsense\n"])
            for _ in range(5)
        ],
        lambda: [
            b"CONNECT "
            + random.choice(
                [b"*x", b"a:b", b"\\", b"a b c", b"\xff", b"n" * 33, b"n" * 70_000, b"ERROR"]
            )
            + b"\n"
        ],
        lambda: [
            b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + random.randbytes(400),
        ],
        lambda: [b"\\clients\n" * random.randint(1, 30)],
        lambda: [b"* forged joined\nERROR forged\n\\\\exitt\n"],
    ]
    body = random.choice(kinds)()
    return [hello, *body] if random.random() < 0.6 else body


async def attack(port: int, random: Random, report: Report) -> None:
    """Be a hostile client: send something nasty, perhaps not all of it, and disconnect somehow."""
    while True:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            break
        except (
            OSError
        ):  # out of ports, most likely: those of connections that were closed are kept for a while
            await asyncio.sleep(1)
    try:
        sent = b"".join(pieces := nasty(random))
        budget = random.choice([len(sent), len(sent), random.randint(0, len(sent))])
        for piece in pieces:
            writer.write(piece[:budget])
            budget -= min(budget, len(piece))
            await asyncio.sleep(random.choice([0, 0, 0.001, 0.02]))
        end = random.choice(["close", "reset", "half-close", "exit"])
        if end == "reset":
            reset_on_close(writer.get_extra_info("socket"))
            writer.transport.abort()
        elif end != "close" and not writer.transport.is_closing():
            writer.write(b"\n\\exit\n" if end == "exit" else b"")
            if end == "half-close" and not writer.transport.is_closing():
                writer.write_eof()
            async with asyncio.timeout(PATIENCE):
                while await reader.read(2**16):
                    pass
        report.connections += 1
    except TimeoutError:
        report.missed.append(
            f"a connection that had left ({end}) was not closed; it had sent {sent[:100]!r}..."
        )
    except OSError:  # the server has closed this one
        report.connections += 1
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


class Talker:
    """One of the two well-behaved clients."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        partner: bytes,
        report: Report,
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._partner = partner
        self._report = report

    def say(self, number: int) -> None:
        self._writer.write(b"number %d\n" % number)

    async def hear(self, number: int) -> None:
        """Wait for the partner's next message, and record if it is not the expected one."""
        async with asyncio.timeout(PATIENCE):
            while True:
                line = await self._reader.readline()
                if not line.endswith(b"\n") or line.startswith(b"ERROR "):
                    raise ConnectionError(
                        f"the listener of {self._partner.decode()} was thrown out: {line!r}"
                    )
                if line.startswith(self._partner + b": "):
                    break
        self._report.messages += 1
        if line != b"%b: number %d\r\n" % (self._partner, number):
            self._report.missed.append(f"{line!r} came when number {number} was due")

    async def leave(self) -> None:
        """Leave gracefully, which the server must answer with the end of the stream."""
        self._writer.write(b"\\exit\n")
        try:
            async with asyncio.timeout(PATIENCE):
                while line := await self._reader.readline():
                    if line.startswith(self._partner + b": "):
                        self._report.missed.append(f"{line!r} came after all")
        finally:
            self._writer.close()


async def join(port: int, name: bytes, partner: bytes, report: Report) -> Talker:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=LONGEST)
    writer.write(b"CONNECT %b\n" % name)
    if (answer := await reader.readline()) != b"SUCCESS\r\n":
        raise ConnectionError(f"{name.decode()} was answered {answer!r}")
    return Talker(reader, writer, partner, report)


async def storm(port: int, connections: int, seed: int) -> Report:
    """Attack the server with this many hostile clients while two behave; return a report."""
    random = Random(seed)
    report = Report()
    left, right = (
        await join(port, b"left", b"right", report),
        await join(port, b"right", b"left", report),
    )

    turns = iter(range(connections))  # shared by all attackers

    async def attack_on() -> None:
        for _ in turns:
            if not report.missed:
                await attack(port, random, report)

    attackers = [asyncio.create_task(attack_on()) for _ in range(min(AT_ONCE, connections))]
    number = 0
    try:
        while number < 2 or not all(attacker.done() for attacker in attackers):
            number += 1
            start = time.monotonic()
            left.say(number)
            await right.hear(number)
            right.say(number)
            await left.hear(number)
            report.worst = max(report.worst, time.monotonic() - start)
        await asyncio.gather(left.leave(), right.leave())
    except (
        OSError,
        ValueError,
    ) as problem:  # a time-out is an OSError, a line too long a ValueError
        report.missed.append(f"message {number}: {problem!r}")
    finally:
        for attacker in attackers:
            attacker.cancel()
        for outcome in await asyncio.gather(*attackers, return_exceptions=True):
            if isinstance(outcome, Exception):
                report.missed.append(repr(outcome))
    return report


def main() -> int:
    from soak import serving  # which imports this file, for the nasty things

    parser = argparse.ArgumentParser(
        description="Have clients misbehave, by the thousand, while two talk through it all."
    )
    parser.add_argument("--connections", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    with serving() as server:
        before, files, start = server.memory(), server.open_files(), time.monotonic()
        report = asyncio.run(storm(server.port, options.connections, options.seed))
        seconds = time.monotonic() - start
        time.sleep(3)  # those that were reset may still be told of
        after = server.memory()
        report.missed += [f"the server logged: {line}" for line in server.logged()[:20]]
        if (left := server.open_files()) != files:
            report.missed.append(f"{left} files are open, after {files}")
        if server.stop() != 0:
            report.missed.append("the server did not end in order")
    print(
        f"{report.connections:,} connections in {seconds:.0f} s, {report.messages:,} messages "
        f"exchanged, the worst round trip {report.worst:.2f} s\n"
        f"server: {before / 2**20:.1f} MiB before, {after / 2**20:.1f} MiB after; {files} "
        f"files open before, {left} after"
    )
    for wrong in report.missed[:20]:
        print(f"WRONG: {wrong}")
    print(f"{len(report.missed)} things WRONG" if report.missed else "nothing was missed")
    return 1 if report.missed else 0


if __name__ == "__main__":
    sys.exit(main())
