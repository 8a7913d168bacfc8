"""The `broadcast-server` command: `start` runs the server, `connect` the client."""

from __future__ import annotations

import sys
from typing import NoReturn

from .connect import main_client
from .options import CLIENT, SERVER, make_parser
from .serve import main_server
from .signals import INTERRUPTED


def main() -> NoReturn:
    """Run the program that the first argument names, and exit with its status."""
    parser = make_parser(
        "broadcast-server", "A room in which what one client sends reaches all others."
    )
    subcommands = parser.add_subparsers(dest="program", required=True)
    for name, description in (("start", SERVER), ("connect", CLIENT)):
        subcommands.add_parser(name, help=description, add_help=False)
    program = parser.parse_args(sys.argv[1:2]).program
    run = main_server if program == "start" else main_client
    try:
        status = run(sys.argv[2:], f"broadcast-server {program}")
    except KeyboardInterrupt:
        status = INTERRUPTED
    sys.exit(status)
