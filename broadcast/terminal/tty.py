"""What only a terminal can do: raw mode, suspending the program, and writes that never block."""

import contextlib
import os
import signal
from typing import Self

try:
    import termios
except ImportError:  # Windows
    termios = None  # type: ignore[assignment]

HAS_RAW_MODE = termios is not None
"""Whether this system supports raw mode."""


class RawMode:
    """Raw mode of a terminal, within `with RawMode(fd) as raw_mode:`.

    Keys arrive one at a time and unchanged, Ctrl-C and Ctrl-Z included. Input typed ahead is kept,
    and no change waits for pending output, which a stopped terminal would never drain.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._original = termios.tcgetattr(fd)
        self._raw = termios.tcgetattr(fd)
        self._raw[0] &= ~(termios.ICRNL | termios.IXON)
        self._raw[3] &= ~(termios.ICANON | termios.ECHO | termios.ISIG | termios.IEXTEN)
        self._raw[6][termios.VMIN], self._raw[6][termios.VTIME] = 1, 0

    def __enter__(self) -> Self:
        self.enter()
        return self

    def __exit__(self, *_exception: object) -> None:
        with contextlib.suppress(termios.error):  # the terminal has hung up
            self._restore()

    def enter(self) -> None:
        """Enter raw mode, also again after the program was stopped and continued."""
        with contextlib.suppress(OSError):  # not our controlling terminal
            if os.tcgetpgrp(self._fd) != os.getpgrp():
                return  # changing the terminal from the background would stop us
        termios.tcsetattr(self._fd, termios.TCSANOW, self._raw)

    def suspend(self) -> None:
        """Stop this process as Ctrl-Z does, with the terminal restored, until SIGCONT arrives."""
        self._restore()
        os.kill(os.getpid(), signal.SIGTSTP)
        # The signal is ignored where nobody could continue us, as under `ssh host command`.
        self.enter()

    def _restore(self) -> None:
        termios.tcsetattr(self._fd, termios.TCSANOW, self._original)


def open_terminal(fd: int | None) -> int | None:
    """Open the terminal behind `fd` again, non-blocking; None if it is none or cannot be opened.

    Only a file description of our own may be made non-blocking: the original one is shared with
    other programs.
    """
    with contextlib.suppress(OSError, AttributeError):
        if fd is not None and os.isatty(fd):
            return os.open(os.ttyname(fd), os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
    return None
