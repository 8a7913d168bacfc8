"""The `broadcast-server` command: `start` runs the server, `connect` the client."""

import sys

from .connect import main_client
from .exit_codes import OK
from .options import CLIENT, SERVER, make_parser
from .serve import main_server


def main() -> int:
    """Run the program that the first argument names, or print the help; return the exit code."""
    about = "A room in which what one client sends reaches all others."
    parser = make_parser("broadcast-server", about)
    subcommands = parser.add_subparsers(dest="program", metavar="start|connect", required=True)
    subcommands.add_parser("start", help=SERVER, add_help=False)
    subcommands.add_parser("connect", help=CLIENT, add_help=False)
    if not sys.argv[1:]:
        parser.print_help()
        return OK
    program = parser.parse_args(sys.argv[1:2]).program
    run = main_server if program == "start" else main_client
    return run(sys.argv[2:], f"broadcast-server {program}")
