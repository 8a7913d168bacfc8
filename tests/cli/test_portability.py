"""Both programs without what only some systems have."""

from __future__ import annotations

import signal

import pytest
from helpers import TOP, PseudoTerminal, RawClient, StartProgram


@pytest.mark.parametrize("missing", ["termios", "resource", "fcntl", "poll", "signal handlers"])
def test_programs_work_without_what_only_some_systems_have(
    program: StartProgram, missing: str
) -> None:
    if missing == "signal handlers":  # on Windows, with raw mode
        remove = (
            "import asyncio, sys; sys.modules['termios'] = None\n"
            "def no(*_): raise NotImplementedError\n"
            "asyncio.SelectorEventLoop.add_signal_handler = no\n"
        )
    elif missing == "poll":
        remove = "import select\ndel select.poll\n"
    else:
        remove = f"import sys; sys.modules[{missing!r}] = None\n"
    run = remove + "import sys, broadcast.cli\nsys.exit(getattr(broadcast.cli, sys.argv.pop(1))())"
    server = program(run, "main_server", "--port", "0", "--no-notices", cwd=TOP)
    port = server.port
    watcher = RawClient(port, "watcher")
    client = program(run, "main_client", "--port", str(port), "--user", "bot", cwd=TOP)
    client.type("hello\n")
    assert watcher.line() == "bot: hello"
    watcher.send("hi")
    assert client.output_line() == "watcher: hi"
    client.process.send_signal(signal.SIGINT)
    status, seconds = client.time_exit()
    assert (status, seconds < 1) == (130, True)
    terminal = PseudoTerminal(
        program, "main_client", "--port", str(port), "--user", "sitter", name=run
    )
    watcher.wait_joined("sitter")
    terminal.type("from a terminal\r")
    assert watcher.line() == "sitter: from a terminal"
    terminal.type("\\exit\r")
    assert terminal.client.wait_exit() == 0
    terminal.close()
    server.process.send_signal(signal.SIGTERM)
    assert watcher.line() == "* server is shutting down"
    watcher.close()
    assert server.wait_exit() == 0
    assert "Traceback" not in server.errors()
