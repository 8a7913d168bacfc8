"""The arguments of both programs, and what their exit codes mean."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import math
import os
import signal
import ssl
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from . import __version__, client, logger, protocol, server
from .client import BroadcastClient
from .console import Console, OutputClosedError, complain
from .conversation import keep_talking
from .logger import LOGGER
from .pipeline import Pipeline
from .protocol import BroadcastError
from .server import BroadcastServer
from .strangers import DEFAULT_MAX_STRANGERS
from .terminal import Terminal

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

GC_THRESHOLDS = (5_000, 10, 200)
"""A pass takes 0.3 us an object and ten thousand clients are a million: with the usual thresholds full passes paused the server for up to
350 ms while they joined. These make one only after ten million, and keep the second generation's at some 20 ms."""

RESERVED_DESCRIPTORS = 64
"""Open files kept for all that is not a connection: listening, the log, modules being imported."""

STRANGERS_SHARE = 8
"""Where the system allows few open files, an eighth of them is for connections that have not
joined, and as many again for those that are being turned away."""

FEW_CLIENTS = 100
"""A limit on open files that leaves room for fewer clients is logged as a warning."""

UNLIMITED_DESCRIPTORS = 1_048_576
"""What to ask for where there is no limit: more than one process can serve, and no kernel refuses it."""

OK, FAILED, INTERRUPTED, TERMINATED = 0, 1, 128 + signal.SIGINT, 128 + signal.SIGTERM
"""Exit codes; argparse's own is 2, for bad arguments."""


SERVER = "Run a room: what one client sends reaches all others."
STRANGERS_HELP = (
    "connections at once that have not joined, of which the oldest makes room for one more"
    f" (default: {DEFAULT_MAX_STRANGERS})"
)
TOKEN_HELP = "file with the token that clients have to know; also BROADCAST_TOKEN in the environment"
CLIENT = "Join a room: lines typed or piped in go to all others, what they send is printed."


# --- arguments ---


def positive(text: str) -> float:
    """Read an argument that is a time or a rate: above 0, fractions allowed."""
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"must be above 0, not {text}")
    return value


def whole_number(text: str) -> int:
    """Read an argument that is a whole number above 0."""
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
    add("--timeout", type=positive, default=server.DEFAULT_TIMEOUT, metavar="S", help="seconds a client may be silent")
    add("--backlog", type=whole_number, default=server.DEFAULT_BACKLOG, metavar="BYTES", help="kept for slow readers")
    grace = "seconds the slow readers of one address may hold up the room"
    add("--grace", type=positive, default=server.DEFAULT_GRACE, metavar="S", help=grace)
    add("--max-clients", type=whole_number, metavar="N", help=f"clients at once (default: {server.DEFAULT_MAX_CLIENTS})")
    add("--max-strangers", type=whole_number, metavar="N", help=STRANGERS_HELP)
    add("--max-rate", type=positive, metavar="N", help="lines a second from one client, which is slowed down to it")
    add("--tls-cert", metavar="FILE", help="certificate chain, PEM: everything is encrypted")
    add("--tls-key", metavar="FILE", help="its key, PEM; where it is not in the same file")
    add("--token-file", metavar="FILE", help=TOKEN_HELP)
    add("--no-notices", dest="notices", action="store_false", help="do not tell who joins and leaves")
    level = os.environ.get("LOG_LEVEL", "INFO")
    add("--log-level", type=log_level, default=level, metavar="LEVEL", help=f"one of {', '.join(logger.LEVELS)}")


def _add_client_arguments(parser: argparse.ArgumentParser) -> None:
    add: Callable[..., Any] = parser.add_argument
    add("--host", default=server.DEFAULT_HOST, help="address or name of the server")
    add("--port", type=port_number, default=server.DEFAULT_PORT, help="its port")
    add("--user", type=username, default="anonymous", metavar="NAME", help="name to be known by")
    add("--heartbeat", type=positive, default=client.DEFAULT_HEARTBEAT, metavar="S", help="seconds between signs of life")
    add("--listen", action="store_true", help="only print: do not read stdin, stay until the server ends")
    add("--tls", action="store_true", help="use TLS; the server has to be trusted and to be called --host")
    add("--tls-ca", metavar="FILE", help="certificates to trust in place of the system's, PEM")
    add("--token-file", metavar="FILE", help=TOKEN_HELP)
    add("--reconnect", action="store_true", help="take up a lost connection again, for as long as it takes")
    add("--quiet", action="store_true", help="do not ring the bell when somebody names you")
    add("--text", action="store_true", help="send every line of stdin as text, also one that begins with a backslash")
    add("--json", action="store_true", help="print an object a line for whatever arrives: time, type, sender, text")


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    """Shows defaults where there are any."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default is None or isinstance(action.default, bool) else super()._get_help_string(action)


def _parser(program: str | None, description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=program, description=description, formatter_class=_Help, allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"broadcast {__version__}")
    return parser


# --- programs ---


def main_server(arguments: Sequence[str] | None = None, program: str | None = None) -> int:
    """Run the server until a signal; return 0 after an orderly end, 1 where it could not listen or was ended by a second signal."""
    parser = _parser(program, SERVER)
    _add_server_arguments(parser)
    options = parser.parse_args(arguments)
    tls = _server_context(parser, options)
    token = _token(parser, options)
    open_files = _raise_open_file_limit()
    if options.max_strangers is None:
        few_strangers = max(1, open_files // STRANGERS_SHARE)
        options.max_strangers = min(DEFAULT_MAX_STRANGERS, few_strangers)
    allowed = max(1, open_files - RESERVED_DESCRIPTORS - 2 * options.max_strangers)
    few = options.max_clients is None and allowed < FEW_CLIENTS
    if options.max_clients is None:
        options.max_clients = min(server.DEFAULT_MAX_CLIENTS, allowed)
    elif options.max_clients > allowed:
        parser.error(f"argument --max-clients: the system's limit on open files allows {allowed}, not {options.max_clients}")
    gc.set_threshold(*GC_THRESHOLDS)
    log = logger.Log(options.log_level)
    if few:
        clients = "1 client" if allowed == 1 else f"{allowed} clients"
        message = "this system allows %d open files: at most %s; raise `ulimit -n`"
        LOGGER.warning(message, open_files, clients)
    try:
        return asyncio.run(_serve(options, log, tls, token))
    finally:
        log.close()


def main_client(arguments: Sequence[str] | None = None, program: str | None = None) -> int:
    r"""Run the client; return 0 after `\exit` or the end of input or of output, 1 where the server can't be reached, refuses or goes
    away, 130 and 143 after SIGINT and SIGTERM."""
    parser = _parser(program, CLIENT)
    _add_client_arguments(parser)
    options = parser.parse_args(arguments)
    return asyncio.run(_talk(options, _client_context(parser, options), _token(parser, options)))


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


def _server_context(parser: argparse.ArgumentParser, options: argparse.Namespace) -> ssl.SSLContext | None:
    if not options.tls_cert:
        if options.tls_key:
            parser.error("argument --tls-key: needs --tls-cert")
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION  # a client could demand it again and again
    try:
        context.load_cert_chain(options.tls_cert, options.tls_key)
    except OSError as problem:
        parser.error(f"argument --tls-cert: can't use {options.tls_cert}: {problem.strerror or problem}")
    return context


def _client_context(parser: argparse.ArgumentParser, options: argparse.Namespace) -> ssl.SSLContext | None:
    if not options.tls:
        if options.tls_ca:
            parser.error("argument --tls-ca: needs --tls")
        return None
    try:
        context = ssl.create_default_context(cafile=options.tls_ca)
    except OSError as problem:
        parser.error(f"argument --tls-ca: can't use {options.tls_ca}: {problem.strerror or problem}")
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _token(parser: argparse.ArgumentParser, options: argparse.Namespace) -> str | None:
    """Return the token: from its file or the environment, never from an argument, where `ps` shows it."""
    source = options.token_file or "BROADCAST_TOKEN"
    if not options.token_file:
        token = os.environ.get("BROADCAST_TOKEN")
    else:
        try:
            # Some editors begin a file with a byte order mark, which is no part of the token.
            token = Path(options.token_file).read_text(encoding="utf-8-sig").strip()
            mode = Path(options.token_file).stat().st_mode
        except (OSError, UnicodeError) as problem:
            parser.error(f"argument --token-file: can't read {options.token_file}: {getattr(problem, 'strerror', None) or problem}")
        if os.name == "posix" and mode & 0o077:
            complain(f"warning: others can read {options.token_file}; chmod 600 keeps them out")
    if token == "":
        parser.error(f"the token is empty: put one in {source}")
    shown = token and protocol.clean(token.encode(errors="replace"))
    if token is not None and (shown != token or any(map(str.isspace, token))):
        parser.error("the token has to be one word of characters that can be shown")
    return token


def _raise_open_file_limit() -> int:
    """Raise the limit on open files to what the system allows; return the limit."""
    if resource is None:
        return UNLIMITED_DESCRIPTORS
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most == resource.RLIM_INFINITY:
        most = UNLIMITED_DESCRIPTORS
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    now, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return int(now)


async def _serve(options: argparse.Namespace, log: logger.Log, tls: ssl.SSLContext | None, token: str | None) -> int:
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
            max_clients=options.max_clients,
            max_strangers=options.max_strangers,
            max_rate=options.max_rate,
            tls=tls,
            token=token,
        ) as running:

            def tell() -> None:
                numbers = running.statistics() | {"log lines lost": log.lost}
                LOGGER.info("%s", ", ".join(f"{name} {number}" for name, number in numbers.items()))

            if hasattr(signal, "SIGUSR1"):
                _on_signal(signal.SIGUSR1, tell)
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


async def _talk(options: argparse.Namespace, tls: ssl.SSLContext | None, token: str | None) -> int:
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

            def connect() -> BroadcastClient:
                return BroadcastClient(options.host, options.port, options.user, heartbeat=None, tls=tls, token=token)

            try:
                await _show_and_talk(options, console, connect, lambda: on_signal(INTERRUPTED))
            except OutputClosedError:
                pass
            except BroadcastError as problem:
                status = status or FAILED  # a signal may have come at the same time
                await console.report(str(problem))
    except asyncio.CancelledError:
        if status == OK:
            raise
    return status


async def _show_and_talk(
    options: argparse.Namespace, console: Console, connect: Callable[[], BroadcastClient], interrupt: Callable[[], None]
) -> None:
    is_dumb = os.environ.get("TERM", "dumb") == "dumb"
    view: Pipeline | Terminal
    if is_dumb or options.json or options.listen or not console.can_be_raw:
        view = Pipeline(console, as_json=options.json, as_text=options.text, listen=options.listen)
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
