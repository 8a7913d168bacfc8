"""The arguments of both programs."""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .. import __version__
from ..errors import UsernameError
from ..protocol.blocks import sanitize
from ..protocol.commands import HEARTBEAT_INTERVAL
from ..protocol.names import check_username
from ..server import server
from ..server.history import DEFAULT_HISTORY_BYTES
from ..server.strangers import DEFAULT_MAX_STRANGERS
from ..terminal.stdio import print_error
from .logger import LEVELS

SERVER = "Run a room: what one client sends reaches all others."

CLIENT = "Join a room: lines typed or piped in go to all others, what they send is printed."

TOKEN_HELP = "file with the token that clients must know; or set BROADCAST_TOKEN"


def positive(text: str) -> float:
    """Parse a time or a rate: above 0, fractions allowed."""
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"must be above 0, not {text}")
    return value


def whole_number(text: str) -> int:
    """Parse a whole number above 0."""
    value = int(text)
    if value <= 0:
        raise argparse.ArgumentTypeError(f"must be above 0, not {text}")
    return value


def count(text: str) -> int:
    """Parse a whole number, 0 included."""
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"must be 0 or more, not {text}")
    return value


def port_number(text: str) -> int:
    """Parse a port."""
    value = int(text)
    if not 0 <= value <= 65_535:
        raise argparse.ArgumentTypeError(f"must be from 0 to 65535, not {text}")
    return value


def log_level(text: str) -> str:
    """Parse the name of a log level, in any case."""
    if text.upper() not in LEVELS:
        raise argparse.ArgumentTypeError(f"must be one of {', '.join(LEVELS)}, not {text}")
    return text.upper()


def username(text: str) -> str:
    """Parse a username."""
    try:
        return check_username(text)
    except UsernameError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


# One argument per entry reads as a table.
# fmt: off
def add_server_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the server."""
    add: Callable[..., Any] = parser.add_argument
    add("--host", default=server.DEFAULT_HOST,
        help="address or name to listen on; empty for every interface (default: %(default)s)")
    add("--port", type=port_number, default=server.DEFAULT_PORT,
        help="port to listen on; 0 for any free one (default: %(default)s)")
    add("--timeout", type=positive, default=server.DEFAULT_TIMEOUT, metavar="S",
        help="seconds a client may be silent (default: %(default)s)")
    add("--backlog", type=whole_number, default=server.DEFAULT_BACKLOG, metavar="BYTES",
        help="bytes kept for slow readers (default: %(default)s)")
    add("--grace", type=positive, default=server.DEFAULT_GRACE, metavar="S",
        help="seconds the slow readers of one address may hold up the room (default: %(default)s)")
    add("--history", type=count, default=0, metavar="N",
        help="messages that a client is sent when it joins (default: %(default)s)")
    add("--history-bytes", type=whole_number, default=DEFAULT_HISTORY_BYTES, metavar="BYTES",
        help="the most memory that these take up (default: %(default)s)")
    add("--max-clients", type=whole_number, metavar="N",
        help=f"clients at once (default: {server.DEFAULT_MAX_CLIENTS})")
    add("--max-strangers", type=whole_number, metavar="N",
        help="connections at once that have not joined; one more takes the place of the oldest"
             f" (default: {DEFAULT_MAX_STRANGERS})")
    add("--max-rate", type=positive, metavar="N",
        help="lines a second from one client, which is slowed down to it")
    add("--tls-cert", metavar="FILE", help="certificate chain, PEM; encrypts every connection")
    add("--tls-key", metavar="FILE", help="private key, PEM, if it is not in the same file")
    add("--token-file", metavar="FILE", help=TOKEN_HELP)
    add("--no-notices", dest="notices", action="store_false",
        help="do not announce who joins and leaves")
    add("--log-level", type=log_level, default=os.environ.get("LOG_LEVEL", "INFO"),
        metavar="LEVEL", help=f"one of {', '.join(LEVELS)} (default: %(default)s)")


def add_client_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the client."""
    add: Callable[..., Any] = parser.add_argument
    add("--host", default=server.DEFAULT_HOST,
        help="address or name of the server (default: %(default)s)")
    add("--port", type=port_number, default=server.DEFAULT_PORT,
        help="port of the server (default: %(default)s)")
    add("--user", type=username, default="anonymous", metavar="NAME",
        help="your name in the room (default: %(default)s)")
    add("--heartbeat", type=positive, default=HEARTBEAT_INTERVAL, metavar="S",
        help="seconds between heartbeats (default: %(default)s)")
    add("--listen", action="store_true",
        help="only print: do not read stdin, stay until the server closes the connection")
    add("--tls", action="store_true",
        help="use TLS; the server's certificate must be trusted and valid for --host")
    add("--tls-ca", metavar="FILE",
        help="certificates to trust instead of the system's, PEM")
    add("--token-file", metavar="FILE", help=TOKEN_HELP)
    add("--reconnect", action="store_true",
        help="reconnect when the connection is lost, however long it takes")
    add("--quiet", action="store_true", help="do not ring the bell when somebody names you")
    add("--text", action="store_true",
        help="send every line of stdin as text, even if it begins with a backslash")
    add("--json", action="store_true",
        help="print everything received as one object per line: time, type, sender, text")
# fmt: on


def make_parser(program: str | None, description: str) -> argparse.ArgumentParser:
    """Return a parser with the options that all programs share."""
    parser = argparse.ArgumentParser(prog=program, description=description, allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"broadcast {__version__}")
    return parser


def read_token(parser: argparse.ArgumentParser, options: argparse.Namespace) -> str | None:
    """Return the token from its file or the environment; `ps` would show it in an argument."""
    source = options.token_file or "BROADCAST_TOKEN"
    if not options.token_file:
        token = os.environ.get("BROADCAST_TOKEN")
    else:
        try:
            # Some editors put a byte order mark in front.
            token = Path(options.token_file).read_text(encoding="utf-8-sig").strip()
            mode = Path(options.token_file).stat().st_mode
        except (OSError, UnicodeError) as error:
            reason = getattr(error, "strerror", None) or error
            parser.error(f"argument --token-file: can't read {options.token_file}: {reason}")
        if os.name == "posix" and mode & 0o077:
            print_error(f"warning: others can read {options.token_file}; chmod 600 keeps them out")
    if token == "":
        parser.error(f"the token is empty: put one in {source}")
    sanitized = token and sanitize(token.encode(errors="replace"))
    if token is not None and (sanitized != token or any(map(str.isspace, token))):
        parser.error("the token has to be one word of characters that can be shown")
    return token
