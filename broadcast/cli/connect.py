"""The client program."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import ssl
from collections.abc import Callable, Sequence

from ..client.client import BroadcastClient
from ..client.reconnect import run_with_reconnect
from ..errors import BroadcastError, OutputClosedError
from ..terminal.interactive import Terminal
from ..terminal.pipeline import Pipeline
from ..terminal.stdio import Console
from .options import CLIENT, add_client_arguments, make_parser, read_token
from .signals import FAILED, INTERRUPTED, OK, TERMINATED, handle_signal


def main_client(arguments: Sequence[str] | None = None, program: str | None = None) -> int:
    r"""Run the client; return 0 after `\exit` or the end of input or of output, 1 where the server can't be reached, refuses or goes
    away, 130 and 143 after SIGINT and SIGTERM."""
    parser = make_parser(program, CLIENT)
    add_client_arguments(parser)
    options = parser.parse_args(arguments)
    return asyncio.run(
        run_client(options, _client_context(parser, options), read_token(parser, options))
    )


def _client_context(
    parser: argparse.ArgumentParser, options: argparse.Namespace
) -> ssl.SSLContext | None:
    if not options.tls:
        if options.tls_ca:
            parser.error("argument --tls-ca: needs --tls")
        return None
    try:
        context = ssl.create_default_context(cafile=options.tls_ca)
    except OSError as problem:
        parser.error(
            f"argument --tls-ca: can't use {options.tls_ca}: {problem.strerror or problem}"
        )
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


async def run_client(
    options: argparse.Namespace, tls: ssl.SSLContext | None, token: str | None
) -> int:
    task, status = asyncio.current_task(), OK

    def on_signal(code: int) -> None:
        nonlocal status
        status = code
        if task:
            task.cancel()

    handle_signal(signal.SIGINT, on_signal, INTERRUPTED)
    handle_signal(signal.SIGTERM, on_signal, TERMINATED)
    try:
        with Console() as console:

            def connect() -> BroadcastClient:
                return BroadcastClient(
                    options.host, options.port, options.user, heartbeat=None, tls=tls, token=token
                )

            try:
                await _run_view(options, console, connect, lambda: on_signal(INTERRUPTED))
            except OutputClosedError:
                pass
            except BroadcastError as problem:
                status = status or FAILED  # a signal may have come at the same time
                await console.report(str(problem))
    except asyncio.CancelledError:
        if status == OK:
            raise
    return status


async def _run_view(
    options: argparse.Namespace,
    console: Console,
    connect: Callable[[], BroadcastClient],
    interrupt: Callable[[], None],
) -> None:
    is_dumb = os.environ.get("TERM", "dumb") == "dumb"
    view: Pipeline | Terminal
    if is_dumb or options.json or options.listen or not console.supports_raw_mode:
        view = Pipeline(console, as_json=options.json, as_text=options.text, listen=options.listen)
    else:
        coloured = not os.environ.get("NO_COLOR")
        view = Terminal(
            console, options.user, coloured=coloured, bell=not options.quiet, interrupt=interrupt
        )
    problem: Exception | None = None
    try:
        async with asyncio.TaskGroup() as group:
            showing = group.create_task(view.run())
            await run_with_reconnect(connect, view, options.heartbeat, options.reconnect)
            showing.cancel()
    except* BroadcastError as problems:
        problem = problems.exceptions[0]
    if problem:
        raise problem
