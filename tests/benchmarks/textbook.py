"""Servers as tutorials write them: `python3 textbook.py broadcast` or `python3 textbook.py sink`.

`broadcast` is the chat server of asyncio's tutorials: a line at a time, with one `write` and one
`drain` for each client and message. `sink` only reads, which is the least that a server on
asyncio's streams costs. Both answer the first line with SUCCESS, so that they can be driven like
our server, and print to stderr on which free port of the loopback they listen.
"""

from __future__ import annotations

import asyncio
import sys
from asyncio import StreamReader, StreamWriter

WRITERS: set[StreamWriter] = set()


async def broadcast(reader: StreamReader, writer: StreamWriter) -> None:
    """Send each line of a client to all the others."""
    name = (await reader.readline()).split()[1]
    writer.write(b"SUCCESS\r\n")
    WRITERS.add(writer)
    try:
        while line := await reader.readline():
            message = name + b": " + line.rstrip() + b"\r\n"
            for other in list(WRITERS):
                if other is not writer:
                    other.write(message)
                    await other.drain()
    except ConnectionError:
        pass
    finally:
        WRITERS.discard(writer)
        writer.close()


async def sink(reader: StreamReader, writer: StreamWriter) -> None:
    """Read and discard everything."""
    await reader.readline()
    writer.write(b"SUCCESS\r\n")
    while await reader.read(65_536):
        pass
    writer.close()


async def main(kind: str) -> None:
    server = await asyncio.start_server(
        {"broadcast": broadcast, "sink": sink}[kind], "127.0.0.1", 0, backlog=4096
    )
    print(
        f"listening on 127.0.0.1:{server.sockets[0].getsockname()[1]}", file=sys.stderr, flush=True
    )
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
