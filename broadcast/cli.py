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
from typing import Any, NoReturn

from . import __version__, client, logger, protocol, server
from .client import BroadcastClient
from .console import Console, OutputClosedError
from .conversation import keep_talking
from .logger import LOGGER
from .pipeline import Pipeline
from .protocol import BroadcastError
from .server import BroadcastServer
from .terminal import Terminal

GC_THRESHOLDS = (5_000, 10, 200)
"""A pass takes 0.3 us an object and ten thousand clients are a million: with the usual thresholds full passes paused the server for up to
350 ms while they joined. These make one only after ten million, and keep the second generation's at some 20 ms."""

OK, FAILED, INTERRUPTED, TERMINATED = 0, 1, 128 + signal.SIGINT, 128 + signal.SIGTERM
"""Exit codes; argparse's own is 2, for bad arguments."""


SERVER = "Run a room: what one client sends reaches all others."
CLIENT = "Join a room: lines typed or piped in go to all others, what they send is printed."


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


def _add_server_arguments(parser: argparse.ArgumentParser) -> None:
    add: Callable[..., Any] = parser.add_argument
    add("--host", default=server.DEFAULT_HOST, help="address or name to listen on; empty for every interface")
    add("--port", type=port_number, default=server.DEFAULT_PORT, help="port; 0 takes a free one")
    add("--timeout", type=seconds, default=server.DEFAULT_TIMEOUT, metavar="S", help="seconds a client may be silent")
    add("--backlog", type=number_of_bytes, default=server.DEFAULT_BACKLOG, metavar="BYTES", help="kept for slow readers")
    add("--grace", type=seconds, default=server.DEFAULT_GRACE, metavar="S", help="seconds they may hold up the room")
    add("--no-notices", dest="notices", action="store_false", help="do not tell who joins and leaves")
    level = os.environ.get("LOG_LEVEL", "INFO")
    add("--log-level", type=log_level, default=level, metavar="LEVEL", help=f"one of {', '.join(logger.LEVELS)}")


def _add_client_arguments(parser: argparse.ArgumentParser) -> None:
    add: Callable[..., Any] = parser.add_argument
    add("--host", default=server.DEFAULT_HOST, help="address or name of the server")
    add("--port", type=port_number, default=server.DEFAULT_PORT, help="its port")
    add("--user", type=username, default="anonymous", metavar="NAME", help="name to be known by")
    add("--heartbeat", type=seconds, default=client.DEFAULT_HEARTBEAT, metavar="S", help="seconds between signs of life")
    add("--listen", action="store_true", help="only print: do not read stdin, stay until the server ends")
    add("--reconnect", action="store_true", help="take up a lost connection again, for as long as it takes")
    add("--quiet", action="store_true", help="do not ring the bell when somebody names you")
    add("--text", action="store_true", help="send every line of stdin as text, also one that begins with a backslash")
    add("--json", action="store_true", help="print an object a line for whatever arrives: time, type, sender, text")


def _parser(program: str | None, description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=program, description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"broadcast {__version__}")
    return parser


# --- programs ---


def main_server(arguments: Sequence[str] | None = None, program: str | None = None) -> int:
    """Run the server until a signal; return 0 after an orderly end, 1 where it could not listen or was ended by a second signal."""
    parser = _parser(program, SERVER)
    _add_server_arguments(parser)
    options = parser.parse_args(arguments)
    logger.configure(options.log_level)
    gc.set_threshold(*GC_THRESHOLDS)
    return asyncio.run(_serve(options))


def main_client(arguments: Sequence[str] | None = None, program: str | None = None) -> int:
    r"""Run the client; return 0 after `\exit` or the end of input or of output, 1 where the server can't be reached, refuses or goes
    away, 130 and 143 after SIGINT and SIGTERM."""
    parser = _parser(program, CLIENT)
    _add_client_arguments(parser)
    return asyncio.run(_talk(parser.parse_args(arguments)))


def main() -> NoReturn:
    """Run one of the two, as the first argument says, and exit: `broadcast-server start`, `python -m broadcast connect`."""
    parser = _parser("broadcast-server", "A room in which what one client sends reaches all others.")
    programs: dict[str, Callable[[Sequence[str], str], int]] = {"start": main_server, "connect": main_client}
    subcommands = parser.add_subparsers(dest="program", required=True)
    for name, description in (("start", SERVER), ("connect", CLIENT)):
        subcommands.add_parser(name, help=description, add_help=False)
    known, rest = parser.parse_known_args(sys.argv[1:2])
    del rest
    try:
        status = programs[known.program](sys.argv[2:], f"broadcast-server {known.program}")
    except KeyboardInterrupt:
        status = INTERRUPTED
    sys.exit(status)


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
        _on_signal(number, on_signal)
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

    _on_signal(signal.SIGINT, on_signal, INTERRUPTED)
    _on_signal(signal.SIGTERM, on_signal, TERMINATED)
    try:
        with Console() as console:
            await _show_and_talk(options, console, lambda: on_signal(INTERRUPTED))
    except OutputClosedError:
        pass
    except BroadcastError as problem:
        complain(str(problem))
        status = FAILED
    except asyncio.CancelledError:
        if status == OK:
            raise
    return status


async def _show_and_talk(options: argparse.Namespace, console: Console, interrupt: Callable[[], None]) -> None:
    def connect() -> BroadcastClient:
        return BroadcastClient(options.host, options.port, options.user, heartbeat=None)

    is_dumb = os.environ.get("TERM", "dumb") == "dumb"
    view: Pipeline | Terminal
    if is_dumb or options.json or options.listen or not console.can_be_raw:
        view = Pipeline(console, complain, as_json=options.json, as_text=options.text, listen=options.listen)
    else:
        coloured = not os.environ.get("NO_COLOR")
        view = Terminal(console, options.user, coloured=coloured, bell=not options.quiet, interrupt=interrupt)
    problem: Exception | None = None
    try:
        async with asyncio.TaskGroup() as group:
            showing = group.create_task(view.run())
            await keep_talking(connect, view, options.heartbeat, options.reconnect)
            showing.cancel()
    except* BroadcastError as problems:
        problem = problems.exceptions[0]
    if problem:
        raise problem


def _on_signal(number: int, act: Callable[..., None], *arguments: Any) -> None:
    """Have a signal act within the event loop, on systems too whose loop has no signal handlers."""
    loop = asyncio.get_running_loop()
    try:
        loop.add_signal_handler(number, act, *arguments)
    except NotImplementedError:
        signal.signal(number, lambda *_: loop.call_soon_threadsafe(act, *arguments))


def complain(text: str) -> None:
    """Say a line on stderr, where there is one."""
    if sys.stderr:
        with contextlib.suppress(OSError):
            print(f"broadcast: {text}", file=sys.stderr, flush=True)
