"""The arguments of both programs."""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .. import __version__, protocol
from ..client import client
from ..errors import UsernameError
from ..server import server
from ..server.strangers import DEFAULT_MAX_STRANGERS
from ..terminal.stdio import print_error
from .logger import LEVELS

SERVER = "Run a room: what one client sends reaches all others."

STRANGERS_HELP = (
    "connections at once that have not joined, of which the oldest makes room for one more"
    f" (default: {DEFAULT_MAX_STRANGERS})"
)

TOKEN_HELP = (
    "file with the token that clients have to know; also BROADCAST_TOKEN in the environment"
)

CLIENT = "Join a room: lines typed or piped in go to all others, what they send is printed."


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
    if text.upper() not in LEVELS:
        raise argparse.ArgumentTypeError(f"must be one of {', '.join(LEVELS)}, not {text}")
    return text.upper()


def username(text: str) -> str:
    """Read a username."""
    try:
        return protocol.check_username(text)
    except UsernameError as problem:
        raise argparse.ArgumentTypeError(str(problem)) from None


def add_server_arguments(parser: argparse.ArgumentParser) -> None:
    add: Callable[..., Any] = parser.add_argument
    add(
        "--host",
        default=server.DEFAULT_HOST,
        help="address or name to listen on; empty for every interface",
    )
    add("--port", type=port_number, default=server.DEFAULT_PORT, help="port; 0 takes a free one")
    add(
        "--timeout",
        type=positive,
        default=server.DEFAULT_TIMEOUT,
        metavar="S",
        help="seconds a client may be silent",
    )
    add(
        "--backlog",
        type=whole_number,
        default=server.DEFAULT_BACKLOG,
        metavar="BYTES",
        help="kept for slow readers",
    )
    grace = "seconds the slow readers of one address may hold up the room"
    add("--grace", type=positive, default=server.DEFAULT_GRACE, metavar="S", help=grace)
    add(
        "--max-clients",
        type=whole_number,
        metavar="N",
        help=f"clients at once (default: {server.DEFAULT_MAX_CLIENTS})",
    )
    add("--max-strangers", type=whole_number, metavar="N", help=STRANGERS_HELP)
    add(
        "--max-rate",
        type=positive,
        metavar="N",
        help="lines a second from one client, which is slowed down to it",
    )
    add("--tls-cert", metavar="FILE", help="certificate chain, PEM: everything is encrypted")
    add("--tls-key", metavar="FILE", help="its key, PEM; where it is not in the same file")
    add("--token-file", metavar="FILE", help=TOKEN_HELP)
    add(
        "--no-notices",
        dest="notices",
        action="store_false",
        help="do not tell who joins and leaves",
    )
    level = os.environ.get("LOG_LEVEL", "INFO")
    add(
        "--log-level",
        type=log_level,
        default=level,
        metavar="LEVEL",
        help=f"one of {', '.join(LEVELS)}",
    )


def add_client_arguments(parser: argparse.ArgumentParser) -> None:
    add: Callable[..., Any] = parser.add_argument
    add("--host", default=server.DEFAULT_HOST, help="address or name of the server")
    add("--port", type=port_number, default=server.DEFAULT_PORT, help="its port")
    add("--user", type=username, default="anonymous", metavar="NAME", help="name to be known by")
    add(
        "--heartbeat",
        type=positive,
        default=client.DEFAULT_HEARTBEAT,
        metavar="S",
        help="seconds between signs of life",
    )
    add(
        "--listen",
        action="store_true",
        help="only print: do not read stdin, stay until the server ends",
    )
    add(
        "--tls",
        action="store_true",
        help="use TLS; the server has to be trusted and to be called --host",
    )
    add("--tls-ca", metavar="FILE", help="certificates to trust in place of the system's, PEM")
    add("--token-file", metavar="FILE", help=TOKEN_HELP)
    add(
        "--reconnect",
        action="store_true",
        help="take up a lost connection again, for as long as it takes",
    )
    add("--quiet", action="store_true", help="do not ring the bell when somebody names you")
    add(
        "--text",
        action="store_true",
        help="send every line of stdin as text, also one that begins with a backslash",
    )
    add(
        "--json",
        action="store_true",
        help="print an object a line for whatever arrives: time, type, sender, text",
    )


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    """Shows defaults where there are any."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return (
            action.help
            if action.default is None or isinstance(action.default, bool)
            else super()._get_help_string(action)
        )


def make_parser(program: str | None, description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=program, description=description, formatter_class=_Help, allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"broadcast {__version__}")
    return parser


def read_token(parser: argparse.ArgumentParser, options: argparse.Namespace) -> str | None:
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
            parser.error(
                f"argument --token-file: can't read {options.token_file}: {getattr(problem, 'strerror', None) or problem}"
            )
        if os.name == "posix" and mode & 0o077:
            print_error(f"warning: others can read {options.token_file}; chmod 600 keeps them out")
    if token == "":
        parser.error(f"the token is empty: put one in {source}")
    shown = token and protocol.sanitize(token.encode(errors="replace"))
    if token is not None and (shown != token or any(map(str.isspace, token))):
        parser.error("the token has to be one word of characters that can be shown")
    return token
