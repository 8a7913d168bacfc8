"""The client program: its view, signals and exit codes."""

from __future__ import annotations

import asyncio
import functools
import os
import signal
from argparse import Namespace
from collections.abc import Callable, Sequence

from ..client.client import BroadcastClient
from ..client.reconnect import run_with_reconnect
from ..errors import BroadcastError, OutputClosedError
from ..net.tls import client_context
from ..terminal.interactive import Terminal
from ..terminal.pipeline import Pipeline
from ..terminal.stdio import Console
from .options import CLIENT, add_client_arguments, load_tls, make_parser, read_token
from .signals import FAILED, INTERRUPTED, OK, TERMINATED, handle_signal


def main_client(arguments: Sequence[str] | None = None, program: str | None = None) -> int:
    r"""Run the client and return its exit code.

    0 after `\exit`, the end of the input or of the output; 1 if the server cannot be reached,
    refuses or goes away, or if a line was too long to be sent; 130 after SIGINT; 143 after SIGTERM.
    """
    parser = make_parser(program, CLIENT)
    add_client_arguments(parser)
    options = parser.parse_args(arguments)
    if options.tls_ca and not options.tls:
        parser.error("argument --tls-ca: needs --tls")
    make_client = functools.partial(
        BroadcastClient,
        options.host,
        options.port,
        options.user,
        heartbeat=options.heartbeat,
        tls=load_tls(parser, "--tls-ca", client_context, options.tls_ca) if options.tls else None,
        token=read_token(parser, options),
    )
    return asyncio.run(_run_client(options, make_client))


async def _run_client(options: Namespace, make_client: Callable[[], BroadcastClient]) -> int:
    task, status = asyncio.current_task(), OK

    def stop(code: int) -> None:
        nonlocal status
        status = code
        if task:
            task.cancel()

    handle_signal(signal.SIGINT, stop, INTERRUPTED)
    handle_signal(signal.SIGTERM, stop, TERMINATED)
    try:
        with Console() as console:
            view = _make_view(options, console)
            try:
                async with asyncio.TaskGroup() as group:
                    view_task = group.create_task(view.run())
                    await run_with_reconnect(make_client, view, options.reconnect)
                    view_task.cancel()
            except ExceptionGroup as problems:
                problem = problems.exceptions[0]
                if not isinstance(problem, BroadcastError):
                    raise
                if not isinstance(problem, OutputClosedError):
                    status = status or FAILED  # a signal may have arrived at the same time
                    await console.report(str(problem))
            if isinstance(view, Pipeline) and view.skipped_line:
                status = status or FAILED
    except asyncio.CancelledError:
        if status == OK:
            raise
    return status


def _make_view(options: Namespace, console: Console) -> Pipeline | Terminal:
    is_dumb = os.environ.get("TERM", "dumb") == "dumb"
    if is_dumb or options.json or options.listen or not console.supports_raw_mode:
        return Pipeline(
            console,
            as_json=options.json,
            as_text=options.text,
            listen=options.listen,
            notices=options.notices,
            timestamps=options.timestamps,
        )
    return Terminal(
        console,
        options.user,
        coloured=not os.environ.get("NO_COLOR"),
        bell=not options.quiet,
        notices=options.notices,
        as_text=options.text,
    )
