"""Both programs without what only some systems have."""

from __future__ import annotations

import os
import pty
import signal

import pytest
from helpers import TOP, Raw, StartProgram, timed


@pytest.mark.parametrize("missing", ["termios", "resource", "fcntl", "poll", "signal handlers"])
def test_programs_work_without_what_only_some_systems_have(
    program: StartProgram, missing: str
) -> None:
    """What only some systems have, taken away."""
    if missing == "signal handlers":
        take_away = "import asyncio\ndef no(*_): raise NotImplementedError\nasyncio.SelectorEventLoop.add_signal_handler = no\n"
    elif missing == "poll":
        take_away = "import select\ndel select.poll\n"
    else:
        take_away = f"import sys; sys.modules[{missing!r}] = None\n"
    run = (
        take_away + "import sys, broadcast.cli\nsys.exit(getattr(broadcast.cli, sys.argv.pop(1))())"
    )
    server = program(run, "main_server", "--port", "0", "--no-notices", cwd=TOP)
    port = server.port
    watcher = Raw(port, "watcher")
    client = program(run, "main_client", "--port", str(port), "--user", "bot", cwd=TOP)
    client.type("hello\n")
    assert watcher.line() == "bot: hello"
    watcher.send("hi")
    assert client.output_line() == "watcher: hi"
    client.process.send_signal(signal.SIGINT)
    status, seconds = timed(client)
    assert (status, seconds < 1) == (130, True)
    master, slave = pty.openpty()
    in_terminal = program(
        run,
        "main_client",
        "--port",
        str(port),
        "--user",
        "sitter",
        cwd=TOP,
        stdin=slave,
        stdout=slave,
    )
    os.close(slave)
    watcher.wait_for("sitter")
    os.write(master, b"from a terminal\r")
    assert watcher.line() == "sitter: from a terminal"
    os.write(master, b"\\exit\r")
    assert in_terminal.end() == 0
    os.close(master)
    server.process.send_signal(signal.SIGTERM)
    assert watcher.line() == "* server is shutting down"
    watcher.file.close()
    watcher.socket.close()
    assert server.end() == 0
    assert "Traceback" not in server.errors()
