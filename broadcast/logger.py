"""The project's logger: one place that sets format, level and stream."""

from __future__ import annotations

import logging

LOGGER = logging.getLogger("broadcast")
"""What this package logs to. As a library it sets nothing up: that is the program's to do."""

LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")


def configure(level: str) -> None:
    """Send the log to stderr from `level` (one of LEVELS) up, a line an event, with the time in front."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(message)s"))
    LOGGER.handlers[:] = [handler]
    LOGGER.setLevel(level)
    LOGGER.propagate = False
    logging.raiseExceptions = False  # a log that can't be written must not print tracebacks
