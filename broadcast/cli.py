"""The arguments of both programs, and what their exit codes mean."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import math
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any

from . import __version__, client, logger, protocol, server
from .client import BroadcastClient
from .console import Console, OutputClosedError
from .conversation import Conversation
from .logger import LOGGER
from .protocol import BroadcastError
from .server import BroadcastServer

GC_THRESHOLDS = (50_000, 20, 100)
"""Full collections while ten thousand clients join paused the server for up to 350 ms; with these there is none worth seeing."""

OK, FAILED, INTERRUPTED, TERMINATED = 0, 1, 128 + signal.SIGINT, 128 + signal.SIGTERM
"""Exit codes; argparse's own is 2, for bad arguments."""


# --- arguments ---


def seconds(text: str) -> float:
    """Read an argument that is a time: seconds, fractions allowed, above 0."""
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"must be above 0, not {text}")
    return value


def number_of_bytes(text: str) -> int:
    """Read an argument that is a size above 0."""
    value = int(text)
    if value <= 0:
        raise argparse.ArgumentTypeError(f"must be above 0, not {text}")
    return value


def port_number(text: str) -> int:
    """Read an argument that is a port."""
    value = int(text)
    if not 0 <= value <= 65_535:
        raise argparse.ArgumentTypeError(f"must be from 0 to 65535, not {text}")
    return value


def log_level(text: str) -> str:
    """Read the name of a log level, in any case."""
    if text.upper() not in logger.LEVELS:
        raise argparse.ArgumentTypeError(f"must be one of {', '.join(logger.LEVELS)}, not {text}")
    return text.upper()


def username(text: str) -> str:
    """Read a username."""
    try:
        return protocol.check_username(text)
    except protocol.UsernameError as problem:
        raise argparse.ArgumentTypeError(str(problem)) from None


def _parser(description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter, allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"broadcast {__version__}")
    return parser


def server_arguments() -> argparse.ArgumentParser:
    """Return the parser for the server's arguments."""
    parser = _parser("Run a room: what one client sends reaches all others.")
    add: Callable[..., Any] = parser.add_argument
    add("--host", default=server.DEFAULT_HOST, help="address or name to listen on; empty for every interface")
    add("--port", type=port_number, default=server.DEFAULT_PORT, help="port; 0 takes a free one")
    add("--timeout", type=seconds, default=server.DEFAULT_TIMEOUT, metavar="S", help="seconds a client may be silent")
    add("--backlog", type=number_of_bytes, default=server.DEFAULT_BACKLOG, metavar="BYTES", help="kept for slow readers")
    add("--grace", type=seconds, default=server.DEFAULT_GRACE, metavar="S", help="seconds they may hold up the room")
    add("--no-notices", dest="notices", action="store_false", help="do not tell who joins and leaves")
    level = os.environ.get("LOG_LEVEL", "INFO")
    add("--log-level", type=log_level, default=level, metavar="LEVEL", help=f"one of {', '.join(logger.LEVELS)}")
    return parser


def client_arguments() -> argparse.ArgumentParser:
    """Return the parser for the client's arguments."""
    parser = _parser("Join a room: lines typed or piped in go to all others, what they send is printed.")
    add: Callable[..., Any] = parser.add_argument
    add("--host", default=server.DEFAULT_HOST, help="address or name of the server")
    add("--port", type=port_number, default=server.DEFAULT_PORT, help="its port")
    add("--user", type=username, default="anonymous", metavar="NAME", help="name to be known by")
    add("--heartbeat", type=seconds, default=client.DEFAULT_HEARTBEAT, metavar="S", help="seconds between signs of life")
    add("--listen", action="store_true", help="only print: do not read stdin, stay until the server ends")
    return parser


# --- programs ---


def main_server(arguments: Sequence[str] | None = None) -> int:
    """Run the server until a signal; return 0 after an orderly end, 1 where it could not listen or was ended by a second signal."""
    options = server_arguments().parse_args(arguments)
    logger.configure(options.log_level)
    gc.set_threshold(*GC_THRESHOLDS)
    return asyncio.run(_serve(options))


def main_client(arguments: Sequence[str] | None = None) -> int:
    r"""Run the client; return 0 after `\exit` or the end of input or of output, 1 where the server can't be reached, refuses or goes
    away, 130 and 143 after SIGINT and SIGTERM."""
    return asyncio.run(_talk(client_arguments().parse_args(arguments)))


async def _serve(options: argparse.Namespace) -> int:
    stop = asyncio.Event()
    task, status = asyncio.current_task(), OK
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(_log_problem)

    def on_signal() -> None:
        nonlocal status
        if stop.is_set() and task:
            status = FAILED
            task.cancel()
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, on_signal)
    try:
        async with BroadcastServer(
            options.host,
            options.port,
            timeout=options.timeout,
            backlog=options.backlog,
            grace=options.grace,
            notices=options.notices,
        ):
            await stop.wait()
    except BroadcastError as problem:
        complain(str(problem))
        status = FAILED
    except asyncio.CancelledError:
        if not stop.is_set():
            raise
    return status


def _log_problem(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log what asyncio has to say in one line; only a bug of ours, which is no OSError, with its traceback."""
    problem = context.get("exception")
    bug = problem if not isinstance(problem, OSError) else None
    LOGGER.error("%s: %s", context["message"], problem, exc_info=bug)


async def _talk(options: argparse.Namespace) -> int:
    task, status = asyncio.current_task(), OK

    def on_signal(code: int) -> None:
        nonlocal status
        status = code
        if task:
            task.cancel()

    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGINT, on_signal, INTERRUPTED)
    loop.add_signal_handler(signal.SIGTERM, on_signal, TERMINATED)
    try:
        with Console() as console:
            async with BroadcastClient(options.host, options.port, options.user, heartbeat=None) as connected:
                await Conversation(connected, console, options.heartbeat, options.listen, complain).run()
    except OutputClosedError:
        pass
    except BroadcastError as problem:
        complain(str(problem))
        status = FAILED
    except asyncio.CancelledError:
        if status == OK:
            raise
    return status


def complain(text: str) -> None:
    """Say a line on stderr, where there is one."""
    if sys.stderr:
        with contextlib.suppress(OSError):
            print(f"broadcast: {text}", file=sys.stderr, flush=True)
