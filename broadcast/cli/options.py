"""The arguments of both programs."""

import argparse
import contextlib
import math
import os
import ssl
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from .. import __version__
from ..net.address import describe_os_error
from ..protocol.blocks import sanitize
from ..protocol.commands import HEARTBEAT_INTERVAL
from ..protocol.handshake import DEFAULT_HOST, DEFAULT_PORT, DEFAULT_USERNAME
from ..protocol.names import check_username
from ..server.settings import Settings, check_room
from ..system.stderr import print_error
from .logger import LEVELS

SERVER = "Run a room: what one client sends reaches all others."

CLIENT = "Join a room: lines typed or piped in go to all others, what they send is printed."

TOKEN_HELP = "file with the token that clients must know; or set BROADCAST_TOKEN"

T = TypeVar("T")


class Parser(argparse.ArgumentParser):
    """Reports a usage error as one line on stderr, whatever the arguments contain, and exits."""

    def error(self, message: str) -> NoReturn:
        """Exit with code 2 and a hint in place of the usage, which would hide the error."""
        one_line = sanitize(message.encode(errors="replace"))
        self.exit(2, f"{self.prog}: error: {one_line}; try --help\n")


def _value(
    kind: Callable[[str], T], what: str, is_valid: Callable[[T], bool]
) -> Callable[[str], T]:
    """Return a type for `add_argument` that accepts `what`."""

    def parse(text: str) -> T:
        with contextlib.suppress(ValueError):
            if is_valid(value := kind(text)):
                return value
        raise argparse.ArgumentTypeError(f"must be {what}, not {text!r}")

    return parse


positive = _value(float, "a number above 0", lambda value: 0 < value < math.inf)
whole_number = _value(int, "a whole number above 0", lambda value: value > 0)
count = _value(int, "a whole number, 0 or more", lambda value: value >= 0)
port_number = _value(int, "a number from 0 to 65535", lambda value: 0 <= value <= 65_535)
log_level = _value(str.upper, f"one of {', '.join(LEVELS)}", LEVELS.__contains__)


def _checked(check: Callable[[str], str]) -> Callable[[str], str]:
    """Return a type for `add_argument` whose errors are those of `check`."""

    def parse(text: str) -> str:
        try:
            return check(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return parse


# One argument per entry reads as a table.
# fmt: off
def add_server_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the server."""
    add: Callable[..., Any] = parser.add_argument
    add("--host", default=DEFAULT_HOST,
        help="address or name to listen on; empty for every interface (default: %(default)s)")
    add("--port", type=port_number, default=DEFAULT_PORT,
        help="port to listen on; 0 for any free one (default: %(default)s)")
    add("--timeout", type=positive, default=Settings.timeout, metavar="S",
        help="seconds a client may be silent (default: %(default)s)")
    add("--backlog", type=whole_number, default=Settings.backlog, metavar="BYTES",
        help="bytes kept for slow readers (default: %(default)s)")
    add("--grace", type=positive, default=Settings.grace, metavar="S",
        help="seconds the slow readers of one address may hold up the room (default: %(default)s)")
    add("--history", type=count, default=0, metavar="N",
        help="messages that a client is sent when it joins (default: %(default)s)")
    add("--history-bytes", type=whole_number, default=Settings.history_bytes, metavar="BYTES",
        help="the most memory that these take up (default: %(default)s)")
    add("--max-clients", type=whole_number, metavar="N",
        help=f"clients at once (default: {Settings.max_clients})")
    add("--max-strangers", type=whole_number, metavar="N",
        help="connections at once that have not joined; one more takes the place of the oldest"
             f" (default: {Settings.max_strangers})")
    add("--max-rate", type=positive, metavar="N",
        help="lines a second from one client, which is slowed down to it")
    add("--tls-cert", metavar="FILE", help="certificate chain, PEM; encrypts every connection")
    add("--tls-key", metavar="FILE", help="private key, PEM, if it is not in the same file")
    add("--token-file", metavar="FILE", help=TOKEN_HELP)
    add("--no-notices", dest="notices", action="store_false",
        help="do not announce who joins and leaves")
    add("--cluster", metavar="URL", default=os.environ.get("BROADCAST_CLUSTER"),
        help="Redis, as redis://host:6379/0: all servers with this one and the same --room are one"
             " room; or set BROADCAST_CLUSTER, which keeps a password out of `ps`")
    add("--room", type=_checked(check_room), default=Settings.room, metavar="NAME",
        help="name of the room in the cluster (default: %(default)s)")
    add("--reuse-port", action="store_true",
        help="let several servers of one machine listen on the same port")
    add("--log-level", type=log_level, default=os.environ.get("LOG_LEVEL", "INFO"),
        metavar="LEVEL", help=f"one of {', '.join(LEVELS)} (default: %(default)s)")


def add_client_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the client."""
    add: Callable[..., Any] = parser.add_argument
    add("--host", default=DEFAULT_HOST,
        help="address or name of the server (default: %(default)s)")
    add("--port", type=port_number, default=DEFAULT_PORT,
        help="port of the server (default: %(default)s)")
    add("--user", type=_checked(check_username), default=DEFAULT_USERNAME, metavar="NAME",
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
        help="reconnect when the connection is lost, however long it takes; but not if no attempt"
             " can succeed, as with a wrong token or TLS on one side only")
    add("--quiet", dest="bell", action="store_false",
        help="do not ring the bell when somebody names you")
    add("--text", dest="as_text", action="store_true",
        help="send every line as text, even if it begins with a backslash")
    add("--no-notices", dest="notices", action="store_false",
        help="do not print who joins and leaves")
    formats: Callable[..., Any] = parser.add_mutually_exclusive_group().add_argument
    formats("--json", dest="as_json", action="store_true",
        help="print everything received as one object per line: time, type, sender, text, event,"
             " name, and the reason why somebody left")
    formats("--timestamps", action="store_true",
        help="in a pipeline, print the local time before each line on stdout")
# fmt: on


def make_parser(program: str | None, description: str) -> Parser:
    """Return a parser with the options that all programs share."""
    parser = Parser(prog=program, description=description, allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"broadcast {__version__}")
    return parser


def select(options: argparse.Namespace, kind: type) -> dict[str, Any]:
    """Return the options with the name of an argument of a dataclass: they are that argument."""
    names = vars(options).keys() & {field.name for field in fields(kind)}
    return {name: getattr(options, name) for name in names}


def read_token(parser: Parser, options: argparse.Namespace) -> str | None:
    """Return the token from its file or the environment; `ps` would show it in an argument."""
    if not options.token_file:
        source, is_public = "BROADCAST_TOKEN", False
        token = os.environ.get("BROADCAST_TOKEN")
    else:
        source = f"argument --token-file: {options.token_file}"
        try:
            # Some editors put a byte order mark in front.
            token = Path(options.token_file).read_text(encoding="utf-8-sig").strip()
            is_public = bool(Path(options.token_file).stat().st_mode & 0o077)
        except UnicodeError:
            parser.error(f"argument --token-file: {options.token_file} is not UTF-8")
        except OSError as error:
            why = describe_os_error(error)
            parser.error(f"argument --token-file: can't read {options.token_file}: {why}")
    if token == "":
        parser.error(f"{source} is empty: put a token in it")
    sanitized = token and sanitize(token.encode(errors="replace"))
    if token is not None and (sanitized != token or any(map(str.isspace, token))):
        parser.error(f"{source}: the token has to be one word of characters that can be shown")
    if is_public and os.name == "posix":
        print_error(f"warning: others can read {options.token_file}; chmod 600 keeps them out")
    return token


def load_tls(
    parser: Parser, argument: str, load: Callable[..., ssl.SSLContext], *files: str | None
) -> ssl.SSLContext:
    """Return the TLS context of some files; an error in them is a usage error of `argument`."""
    try:
        return load(*files)
    except OSError as error:
        why = describe_os_error(error) or "it is not a PEM file"
        parser.error(f"argument {argument}: can't use {files[0]}: {why}")
