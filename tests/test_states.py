"""States that change along a table."""

from __future__ import annotations

import pytest

from broadcast.states import follow

TABLE = {"open": {"closed"}, "closed": set[str]()}


class TestFollow:
    def test_state_that_may_follow_is_returned(self) -> None:
        assert follow(TABLE, "open", "closed") == "closed"

    @pytest.mark.parametrize("state", ["open", "closed"])
    def test_any_other_is_an_error(self, state: str) -> None:
        with pytest.raises(RuntimeError, match=f"^open may not follow {state}$"):
            follow(TABLE, state, "open")
