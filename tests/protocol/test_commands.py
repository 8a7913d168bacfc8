"""Command words: which lines are commands."""

from __future__ import annotations

import pytest

from broadcast.protocol import is_exit


@pytest.mark.parametrize("line", ["\\exits", "\\\\\\exit", "\\", "\\ exit", "exit", " \\exit"])
def test_other_lines_do_not_leave(line: str) -> None:
    assert not is_exit(line)
