"""The server program: limits, signals, exit codes."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import signal
import ssl
from collections.abc import Sequence
from typing import Any

from ..errors import BroadcastError
from ..server import server
from ..server.server import BroadcastServer
from ..server.strangers import DEFAULT_MAX_STRANGERS
from ..terminal.stdio import print_error
from .logger import LOGGER, Log

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]
from .options import SERVER, add_server_arguments, make_parser, read_token
from .signals import FAILED, OK, handle_signal

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


def main_server(arguments: Sequence[str] | None = None, program: str | None = None) -> int:
    """Run the server until a signal; return 0 after an orderly end, 1 where it could not listen or was ended by a second signal."""
    parser = make_parser(program, SERVER)
    add_server_arguments(parser)
    options = parser.parse_args(arguments)
    tls = _server_context(parser, options)
    token = read_token(parser, options)
    open_files = _raise_open_file_limit()
    if options.max_strangers is None:
        few_strangers = max(1, open_files // STRANGERS_SHARE)
        options.max_strangers = min(DEFAULT_MAX_STRANGERS, few_strangers)
    allowed = max(1, open_files - RESERVED_DESCRIPTORS - 2 * options.max_strangers)
    few = options.max_clients is None and allowed < FEW_CLIENTS
    if options.max_clients is None:
        options.max_clients = min(server.DEFAULT_MAX_CLIENTS, allowed)
    elif options.max_clients > allowed:
        parser.error(
            f"argument --max-clients: the system's limit on open files allows {allowed}, not {options.max_clients}"
        )
    gc.set_threshold(*GC_THRESHOLDS)
    log = Log(options.log_level)
    if few:
        clients = "1 client" if allowed == 1 else f"{allowed} clients"
        message = "this system allows %d open files: at most %s; raise `ulimit -n`"
        LOGGER.warning(message, open_files, clients)
    try:
        return asyncio.run(_serve(options, log, tls, token))
    finally:
        log.close()


def _server_context(
    parser: argparse.ArgumentParser, options: argparse.Namespace
) -> ssl.SSLContext | None:
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
        parser.error(
            f"argument --tls-cert: can't use {options.tls_cert}: {problem.strerror or problem}"
        )
    return context


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


async def _serve(
    options: argparse.Namespace, log: Log, tls: ssl.SSLContext | None, token: str | None
) -> int:
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
        handle_signal(number, on_signal)
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
                handle_signal(signal.SIGUSR1, tell)
            await stop.wait()
    except BroadcastError as problem:
        print_error(str(problem))
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
