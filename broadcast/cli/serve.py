"""The server program: its limits, signals and exit codes."""

import asyncio
import contextlib
import gc
import signal
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from typing import Any

from ..errors import BroadcastError
from ..net.tls import server_context
from ..protocol.notices import client_count
from ..server.server import BroadcastServer
from ..server.settings import Settings
from ..system.signals import handling_signal
from ..system.stderr import print_error
from .exit_codes import FAILED, OK
from .logger import LOGGER, Log
from .options import SERVER, add_server_arguments, load_tls, make_parser, read_token, select

GC_THRESHOLDS = (5_000, 10, 200)
"""With the default thresholds, full collections pause the server noticeably while thousands of
clients join. These start one only after ten million allocations and keep the others short."""

RESERVED_FDS = 64
"""Open files kept free for everything else: listeners, the log, imports."""

STRANGERS_SHARE = 8
"""If the system allows few open files, an eighth of them is for connections that have not joined,
and as many again for those that are being turned away."""

FEW_CLIENTS = 100
"""A limit on open files that allows fewer clients is logged as a warning."""

UNLIMITED_FDS = 1_048_576
"""Asked for where there is no limit: more than one process can use, and valid everywhere."""


def main_server(arguments: Sequence[str] | None = None, program: str | None = None) -> int:
    """Run the server until a signal and return its exit code.

    0 after a graceful shutdown, or a signal while it starts; 1 if it cannot listen, or a second
    signal cuts the shutdown short.
    """
    parser = make_parser(program, SERVER)
    add_server_arguments(parser)
    options = parser.parse_args(arguments)
    if options.tls_cert:
        files = options.tls_cert, options.tls_key
        options.tls = load_tls(parser, "--tls-cert", server_context, *files)
    elif options.tls_key:
        parser.error("argument --tls-key: needs --tls-cert")
    options.token = read_token(parser, options)
    gc.set_threshold(*GC_THRESHOLDS)
    with Log(options.log_level) as log:
        _limit_connections(parser, options)
        return asyncio.run(_serve(BroadcastServer(**select(options, BroadcastServer)), log))


def _limit_connections(parser: ArgumentParser, options: Namespace) -> None:
    """Fit the options' limits into the one on open files; log a warning if that is low."""
    open_files = _raise_open_file_limit()
    if options.max_strangers is None:
        share = max(1, open_files // STRANGERS_SHARE)
        options.max_strangers = min(Settings.max_strangers, share)
    allowed = max(1, open_files - RESERVED_FDS - 2 * options.max_strangers)
    if options.max_clients is None:
        options.max_clients = min(Settings.max_clients, allowed)
        if allowed < FEW_CLIENTS:
            warning = "this system allows %d open files: at most %s; raise `ulimit -n`"
            LOGGER.warning(warning, open_files, client_count(allowed))
    elif options.max_clients > allowed:
        parser.error(
            "argument --max-clients: the system's limit on open files allows"
            f" {allowed}, not {options.max_clients}"
        )


def _raise_open_file_limit() -> int:
    """Raise the limit on open files as far as the system allows; return it."""
    try:
        import resource
    except ImportError:  # Windows
        return UNLIMITED_FDS
    _, hard_limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard_limit == resource.RLIM_INFINITY:
        hard_limit = UNLIMITED_FDS
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard_limit, hard_limit))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


async def _serve(server: BroadcastServer, log: Log) -> int:
    stop = asyncio.Event()
    task, status = asyncio.current_task(), OK
    asyncio.get_running_loop().set_exception_handler(_log_loop_error)

    def on_signal() -> None:
        nonlocal status
        if stop.is_set():
            status = FAILED
        if task and (stop.is_set() or not server.statistics()):  # it is stopping, or starting
            task.cancel()
        stop.set()

    with contextlib.ExitStack() as handlers:
        handlers.enter_context(handling_signal(signal.SIGINT, on_signal))
        handlers.enter_context(handling_signal(signal.SIGTERM, on_signal))
        if hasattr(signal, "SIGUSR1"):
            on_usr1 = handling_signal(signal.SIGUSR1, _log_statistics, server, log)
            handlers.enter_context(on_usr1)
        try:
            async with server:
                await stop.wait()
        except BroadcastError as error:
            print_error(str(error))
            status = FAILED
        except asyncio.CancelledError:
            if not stop.is_set():
                raise
    return status


def _log_statistics(server: BroadcastServer, log: Log) -> None:
    numbers = server.statistics() | {"log lines lost": log.lost}
    LOGGER.info("%s", ", ".join(f"{name} {number}" for name, number in numbers.items()))


def _log_loop_error(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log an error of the event loop in one line, with a traceback only if it is a bug of ours."""
    error = context.get("exception")
    bug = error if not isinstance(error, OSError) else None
    LOGGER.error("%s: %s", context["message"], error, exc_info=bug)
