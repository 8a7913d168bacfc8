"""Usernames: which ones are allowed, and when two are the same."""

from __future__ import annotations

import random
import unicodedata
from types import SimpleNamespace
from typing import Literal

import pytest

from broadcast import UsernameError
from broadcast.protocol.handshake import parse_connect
from broadcast.protocol.names import NAME_LIMIT, check_username, name_key


class TestUsername:
    @pytest.mark.parametrize(
        "name",
        ["a", "Attila", "Zoë", "名前", "🙂", "x" * 32, "a*b", "a\\b", "ERROR", "#1", "e\u0301"],
    )
    def test_valid_username_is_returned(self, name: str) -> None:
        assert check_username(name) == name

    @pytest.mark.parametrize(
        ("name", "why"),
        [
            ("", "empty"),
            ("x" * 33, "longer than 32 characters"),
            ("\ufdfa" * 10, "longer than 32 characters"),  # 18 characters each in NFKC
            ("a b", "white space"),
            ("a\u3000b", "white space"),
            ("a\tb", "white space"),
            ("a:b", "colon"),
            ("a\ufe55b", "colon"),
            ("*a", r"begins with \*"),
            ("\uff0aa", r"begins with \*"),
            ("\\a", r"begins with \\"),
            ("\uff3ca", r"begins with \\"),
            ("a\ufffd", "can't be shown"),
            ("a\u200b", "can't be shown"),
            ("a\u202e", "can't be shown"),
            ("a\x1b", "can't be shown"),
            ("\u3164", "can't be shown"),
            ("\u2800", "can't be shown"),
            ("\u115f", "can't be shown"),
            ("bob\u3164", "can't be shown"),
            ("\uffa0", "can't be shown"),
            ("\u0301\u0302", "combining marks"),
            ("\ue000", "can't be shown"),
        ],
    )
    def test_invalid_username_raises_with_the_reason(self, name: str, why: str) -> None:
        with pytest.raises(UsernameError, match=f"^bad username: .*{why}"):
            check_username(name)

    @pytest.mark.parametrize("count", [NAME_LIMIT + 1, 32_000])
    def test_only_a_short_name_is_normalised(
        self, count: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """For 32,000 combining marks it takes seconds, and anyone can send them without a token."""
        normalised = []

        def normalize(form: Literal["NFKC"], text: str) -> str:
            normalised.append(len(text))
            return unicodedata.normalize(form, text)

        recorder = SimpleNamespace(normalize=normalize, category=unicodedata.category)
        monkeypatch.setattr("broadcast.protocol.names.unicodedata", recorder)
        marks = "a" + "".join(random.Random(3).choices("\u0301\u0323\u0327\u0345", k=count - 1))
        with pytest.raises(UsernameError, match="^bad username: longer than 32 characters$"):
            parse_connect(f"CONNECT {marks}")
        assert check_username(marks[:NAME_LIMIT]) == marks[:NAME_LIMIT]
        name_key(marks[:NAME_LIMIT])
        assert max(normalised) <= NAME_LIMIT

    def test_ascii_name_is_not_normalised(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in map(chr, range(128)):
            assert name_key(name) == unicodedata.normalize("NFKC", name).casefold()
        monkeypatch.setattr("broadcast.protocol.names.unicodedata", None)
        assert check_username("Attila7") == "Attila7"
        assert name_key("Attila-7_x") == "attila-7_x"

    def test_spellings_of_one_name_have_the_same_key(self) -> None:
        assert name_key("Attila") == name_key("ATTILA") == name_key("\uff21ttila")
        assert name_key("Straße") == name_key("STRASSE")
        assert name_key("Zoë") == name_key("Zoe\u0308")
        assert name_key("Attila") == name_key("Attila\ufe0f") == name_key("At\u034ftila")
        assert name_key("a") != name_key("b")
