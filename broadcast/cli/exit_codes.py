"""The exit codes of both programs."""

import signal

OK, FAILED, INTERRUPTED, TERMINATED = 0, 1, 128 + signal.SIGINT, 128 + signal.SIGTERM
"""Argparse adds 2, for bad arguments."""
