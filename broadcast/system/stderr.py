"""Errors for people, on stderr."""

import contextlib
import os
import sys

from .threads import call_in_thread

ERROR_TIMEOUT = 1.0
"""Seconds to wait for a stderr that nobody reads: an error message must delay neither the exit nor
the next attempt to connect."""


def error_lines(*lines: str) -> bytes:
    """Return lines as they are written to stderr."""
    return "".join(f"broadcast: {line}\n" for line in lines).encode(errors="backslashreplace")


def print_error(text: str) -> None:
    """Write a line to stderr; give up after ERROR_TIMEOUT."""
    if sys.stderr is not None:
        with contextlib.suppress(OSError):  # a timeout is one
            written = call_in_thread(os.write, sys.stderr.fileno(), error_lines(text))
            written.result(ERROR_TIMEOUT)
