"""A TCP proxy that misbehaves on command, between a server and its Redis: a process of its own.

`python3 proxy.py PORT` prints the port that it listens on, then obeys one command a line of its
stdin and answers each with `done`:

* `mute`: from now on, what Redis replies is dropped.
* `stop`: nothing is passed on in either direction; connections stay open, new ones are accepted.
* `cut`: reset all connections, now.
* `bite N`: each Nth call of a script is passed on, its reply dropped, and everything reset.
* `slow N`: of what Redis replies, N bytes a second are passed on over each connection.
* `pass`: end all of these. Connections of which something was dropped are reset.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))

from sockets import reset_on_close

CHUNK_SIZE = 65_536


class Mode(enum.Enum):
    """What happens to data."""

    PASS = "pass"
    MUTE = "mute"
    STOP = "stop"


class Proxy:
    """Passes data between its clients and one port, or does not."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._mode = Mode.PASS
        self._may_flow = asyncio.Event()  # cleared in STOP
        self._may_flow.set()
        self._bite_every = 0  # script calls; 0 for never
        self._calls = 0  # since `bite`
        self._rate = 0  # bytes of replies a second; 0 for any
        self._writers: set[asyncio.StreamWriter] = set()
        self._muted: set[asyncio.StreamWriter] = set()  # of clients that miss a reply

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass on everything of one connection."""
        await self._may_flow.wait()
        try:
            upstream, upstream_writer = await asyncio.open_connection("127.0.0.1", self._port)
        except OSError:
            self._reset([writer])
            return
        ends = {writer, upstream_writer}
        self._writers |= ends
        bitten = asyncio.Event()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pump_commands(reader, upstream_writer, bitten))
                group.create_task(self._pump_replies(upstream, writer, bitten))
        except* (OSError, EOFError):
            pass  # one side has closed its connection: so is the other's
        finally:
            self._writers -= ends
            self._muted.discard(writer)
            self._reset(ends)

    async def _pump_commands(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, bitten: asyncio.Event
    ) -> None:
        while data := await reader.read(CHUNK_SIZE):
            await self._may_flow.wait()
            if self._bite_every and b"EVALSHA" in data.upper():
                self._calls += 1
                if self._calls % self._bite_every == 0:
                    bitten.set()
            writer.write(data)
            await writer.drain()
        raise EOFError

    async def _pump_replies(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, bitten: asyncio.Event
    ) -> None:
        while data := await reader.read(CHUNK_SIZE):
            await self._may_flow.wait()
            if bitten.is_set():
                self._reset(self._writers)
            elif self._mode is Mode.MUTE:
                self._muted.add(writer)
            else:
                await self._pass_on(data, writer)
        raise EOFError

    async def _pass_on(self, data: bytes, writer: asyncio.StreamWriter) -> None:
        while self._rate and data:
            size = max(1, self._rate // 50)
            writer.write(data[:size])
            await asyncio.sleep(len(data[:size]) / self._rate)
            data = data[size:]
        writer.write(data)
        await writer.drain()

    def _reset(self, writers: set[asyncio.StreamWriter] | list[asyncio.StreamWriter]) -> None:
        for writer in writers:
            with contextlib.suppress(OSError):  # it is closed
                reset_on_close(writer.get_extra_info("socket"))
            writer.transport.abort()

    def obey(self, command: str) -> None:
        """Change what happens from now on."""
        word, _, number = command.partition(" ")
        if word == "cut":
            self._reset(self._writers)
        elif word == "bite":
            self._bite_every, self._calls = int(number), 0
        elif word == "slow":
            self._rate = int(number)
        else:
            self._mode = Mode(word)
            if self._mode is Mode.PASS:
                self._bite_every = self._rate = 0
                self._reset(self._muted)
            if self._mode is Mode.STOP:
                self._may_flow.clear()
            else:
                self._may_flow.set()


async def main() -> None:
    proxy = Proxy(int(sys.argv[1]))
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    commands = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(commands), sys.stdin
    )
    while command := await commands.readline():
        proxy.obey(command.decode().strip())
        print("done", flush=True)


if __name__ == "__main__":
    asyncio.run(main())
