"""The client program: its view, signals and exit codes."""

import asyncio
import functools
import os
import signal
from argparse import Namespace
from collections.abc import Sequence

from ..client.client import BroadcastClient
from ..client.reconnect import run_with_reconnect
from ..errors import BroadcastError, OutputClosedError
from ..net.tls import client_context
from ..system.signals import handling_signal
from ..system.tasks import background_tasks
from ..terminal.interactive import Terminal
from ..terminal.pipeline import Pipeline
from ..terminal.stdio import Console
from .exit_codes import FAILED, INTERRUPTED, OK, TERMINATED
from .options import CLIENT, add_client_arguments, load_tls, make_parser, read_token, select


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
    tls = load_tls(parser, "--tls-ca", client_context, options.tls_ca) if options.tls else None
    options.tls, options.token = tls, read_token(parser, options)
    return asyncio.run(_run_client(options))


async def _run_client(options: Namespace) -> int:
    task, status = asyncio.current_task(), OK

    def stop(code: int) -> None:
        nonlocal status
        status = code
        if task:
            task.cancel()

    make_client = functools.partial(BroadcastClient, **select(options, BroadcastClient))
    try:
        with (
            handling_signal(signal.SIGINT, stop, INTERRUPTED),
            handling_signal(signal.SIGTERM, stop, TERMINATED),
            Console() as console,
        ):
            view = _make_view(options, console)
            try:
                async with background_tasks() as start:
                    start(view.run())
                    await run_with_reconnect(make_client, view, options.reconnect)
            except BroadcastError as problem:
                if not isinstance(problem, OutputClosedError):
                    status = status or FAILED  # a signal may have arrived at the same time
                    await console.report(str(problem))
                # Since 3.13, asyncio repeats a cancellation that came together with the problem: it
                # arrives here, and not when the task has ended.
                await asyncio.sleep(0)
            if isinstance(view, Pipeline) and view.skipped_line:
                status = status or FAILED
    except asyncio.CancelledError:
        if status == OK:
            raise
    return status


def _make_view(options: Namespace, console: Console) -> Pipeline | Terminal:
    is_dumb = os.environ.get("TERM", "dumb") == "dumb"
    is_pipeline = is_dumb or options.as_json or options.listen or not console.supports_raw_mode
    options.name, options.coloured = options.user, not os.environ.get("NO_COLOR")
    kind: type[Pipeline | Terminal] = Pipeline if is_pipeline else Terminal
    return kind(console, **select(options, kind))
