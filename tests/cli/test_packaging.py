"""One command for both programs: as a module, and as a single file."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from helpers import PATIENCE, TOP, RawClient, StartProgram


class TestSingleCommand:
    def run(self, program: StartProgram, start: list[str], connect: list[str]) -> None:
        server = program(*start, "--port", "0", "--no-notices", cwd=TOP)
        watcher = RawClient(server.port, "watcher")
        client = program(*connect, "--port", str(server.port), "--user", "bot", cwd=TOP)
        client.process.communicate(b"hello", timeout=PATIENCE)
        assert client.process.returncode == 0
        assert watcher.line() == "bot: hello"
        server.process.terminate()
        assert watcher.line() == "* server is shutting down"
        watcher.close()
        assert server.wait_exit() == 0

    def test_package_runs_as_a_module(self, program: StartProgram) -> None:
        run = "import runpy; runpy.run_module('broadcast', run_name='__main__')"
        self.run(program, [run, "start"], [run, "connect"])

    def test_package_runs_as_a_single_file(self, program: StartProgram, tmp_path: Path) -> None:
        """The file is built by the command in the README."""
        (line,) = re.findall(
            r"^python3 (-c .*zipapp.*)$", (TOP / "README.md").read_text(), re.MULTILINE
        )
        subprocess.run([sys.executable, *shlex.split(line)], cwd=TOP, check=True)
        archive = (TOP / "broadcast.pyz").rename(tmp_path / "broadcast.pyz")
        names = zipfile.ZipFile(archive).namelist()
        assert "broadcast/cli/main.py" in names and all(
            name == "__main__.py" or name.startswith("broadcast/") for name in names
        )
        path = repr(str(archive))
        start = f"runpy.run_path({path}, run_name='__main__')"
        run = f"import sys, runpy; sys.argv[0] = {path}; {start}"
        self.run(program, [run, "start"], [run, "connect"])

    @pytest.mark.parametrize(
        "arguments",
        [["stop"], ["--nonsense"], ["start", "--nonsense"], ["connect", "--user", "a:b"]],
    )
    def test_bad_argument_of_the_single_command_exits_with_status_2(
        self, program: StartProgram, arguments: list[str]
    ) -> None:
        run = program(
            "import runpy; runpy.run_module('broadcast', run_name='__main__')", *arguments, cwd=TOP
        )
        assert run.wait_exit() == 2
        assert re.fullmatch(r"broadcast-server[^\n]*: error: [^\n]+; try --help\n", run.errors())

    def test_single_command_alone_prints_its_help(self, program: StartProgram) -> None:
        run = program(
            "import runpy; runpy.run_module('broadcast', run_name='__main__')",
            cwd=TOP,
        )
        assert run.output_line().startswith("usage: broadcast-server")
        assert run.process.stdout and b"connect" in run.process.stdout.read()
        assert (run.wait_exit(), run.errors()) == (0, "")
