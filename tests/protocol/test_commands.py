"""Command words: which lines are commands."""

from __future__ import annotations

import pytest

from broadcast.protocol.commands import Command, is_command


@pytest.mark.parametrize("line", ["\\exits", "\\\\\\exit", "\\", "\\ exit", "exit", " \\exit"])
def test_line_that_only_resembles_exit_is_not_exit(line: str) -> None:
    assert not is_command(line, Command.EXIT)
