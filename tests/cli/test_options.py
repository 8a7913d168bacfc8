"""The options of both programs, and the errors about them."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import StartProgram

from broadcast import __version__
from broadcast.cli import main_client, main_server


def usage_error(
    main: Callable[[list[str]], int], arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> str:
    """Return what a program writes about bad arguments: one line, and the exit code is 2."""
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
    errors = capsys.readouterr().err
    assert re.fullmatch(r"[^\n]+: error: [^\n]+; try --help\n", errors)
    return errors


class TestServerOptions:
    @pytest.mark.parametrize(
        "arguments",
        [
            ["--port", "65536"],
            ["--port", "x"],
            ["--timeout", "0"],
            ["--timeout", "nan"],
            ["--backlog", "0"],
            ["--grace", "-1"],
            ["x"],
            ["--port", "a\nb"],
            ["a\nb"],
            ["--max-rate"],
            ["--max-clients", "1.5"],
            ["--history", "x"],
            ["--log-level", "loud"],
        ],
    )
    def test_bad_argument_of_the_server_exits_with_status_2(
        self, arguments: list[str], capsys: pytest.CaptureFixture[str]
    ) -> None:
        errors = usage_error(main_server, arguments, capsys)
        assert "invalid" not in errors and "usage" not in errors

    @pytest.mark.parametrize("content", ["", "\n", "\ufeff\n", "two words"])
    def test_token_file_without_exactly_one_word_is_refused(
        self, program: StartProgram, tmp_path: Path, content: str
    ) -> None:
        file = tmp_path / "token"
        file.write_text(content)
        file.chmod(0o600)
        server = program("main_server.py", "--port", "0", "--token-file", str(file))
        assert server.wait_exit() == 2
        expected = "the token has to be one word" if content == "two words" else "is empty"
        assert expected in server.errors()

    @pytest.mark.parametrize(
        ("main", "arguments"),
        [
            (main_server, ["--tls-cert", "/nowhere"]),
            (main_server, ["--tls-key", "/nowhere"]),
            (main_server, ["--token-file", "/nowhere"]),
            (main_client, ["--tls", "--tls-ca", "/nowhere"]),
            (main_client, ["--tls-ca", "/nowhere"]),
            (main_client, ["--token-file", "/dev/null"]),
            (main_server, ["--tls-cert", __file__]),
            (main_client, ["--tls", "--tls-ca", __file__]),
        ],
    )
    def test_unusable_file_exits_with_status_2(
        self,
        main: Callable[[list[str]], int],
        arguments: list[str],
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        errors = usage_error(main, arguments, capsys)
        assert "_ssl.c" not in errors

    @pytest.mark.parametrize("content", [b"\xef\xbb\xbfgeheim\r\n", b"geheim", b" geheim\n\n"])
    def test_token_file_may_have_a_byte_order_mark_and_any_line_ending(
        self, program: StartProgram, tmp_path: Path, content: bytes
    ) -> None:
        secret = tmp_path / "token"
        secret.write_bytes(content)
        secret.chmod(0o600)
        server = program("main_server.py", "--port", "0", "--token-file", str(secret))
        environment = os.environ | {"BROADCAST_TOKEN": "geheim"}
        by_name = program(
            "main_client.py", "--port", str(server.port), stdin=subprocess.DEVNULL, env=environment
        )
        by_file = program(
            "main_client.py",
            "--port",
            str(server.port),
            "--token-file",
            str(secret),
            stdin=subprocess.DEVNULL,
        )
        assert (by_name.wait_exit(), by_file.wait_exit()) == (0, 0)


@pytest.mark.parametrize("name", ["main_server.py", "main_client.py"])
class TestOptionsOfBothPrograms:
    @pytest.mark.parametrize("content", ["", "\ufeff", " \n"])
    def test_empty_token_file_is_refused(
        self, program: StartProgram, tmp_path: Path, name: str, content: str
    ) -> None:
        secret = tmp_path / "token"
        secret.write_text(content, encoding="utf-8")
        secret.chmod(0o600)
        started = program(
            name, "--port", "0" if "server" in name else "1", "--token-file", str(secret)
        )
        assert started.wait_exit() == 2
        assert started.errors() == (
            f"{name}: error: argument --token-file: {secret} is empty: put a token in it;"
            " try --help\n"
        )

    def test_empty_token_in_the_environment_is_refused(
        self, program: StartProgram, name: str
    ) -> None:
        environment = os.environ | {"BROADCAST_TOKEN": ""}
        started = program(name, "--port", "0" if "server" in name else "1", env=environment)
        assert started.wait_exit() == 2
        assert started.errors() == (
            f"{name}: error: BROADCAST_TOKEN is empty: put a token in it; try --help\n"
        )

    def test_version_option_prints_the_version(self, program: StartProgram, name: str) -> None:
        started = program(name, "--version")
        assert started.output_line() == f"broadcast {__version__}"
        assert started.wait_exit() == 0

    def test_help_option_prints_the_usage(self, program: StartProgram, name: str) -> None:
        started = program(name, "--help")
        assert started.output_line().startswith(f"usage: {name}")
        assert started.process.stdout and b"--port" in started.process.stdout.read()
        assert started.wait_exit() == 0
