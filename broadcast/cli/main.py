"""Run one of the two programs, as the first argument says."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from .connect import main_client
from .options import CLIENT, SERVER, make_parser
from .serve import main_server
from .signals import INTERRUPTED


def main() -> NoReturn:
    """Run one of the two, as the first argument says, and exit: `broadcast-server start`, `python -m broadcast connect`."""
    parser = make_parser(
        "broadcast-server", "A room in which what one client sends reaches all others."
    )
    programs: dict[str, Callable[[Sequence[str], str], int]] = {
        "start": main_server,
        "connect": main_client,
    }
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
