"""The scripts that a Redis executes, each at once and undivided: see `scripts/common.lua`."""

from __future__ import annotations

import hashlib
from importlib.resources import files

from .resp import RedisConnection, encode_words

NAMES = ("hello", "attach", "write", "heartbeat", "reap", "bye")

KEYS = ("log", "top", "epoch", "servers", "beats", "names", "next", "freed", "dead")


class Scripts:
    """Encodes calls of the scripts for one room.

    `log`, `names`: the keys that are also read without a script.
    """

    def __init__(self, room: str) -> None:
        # The braces are a hash tag: a Redis Cluster keeps all keys of a room on one node.
        self._prefix = f"broadcast:{{{room}}}:"
        self.log, self.names = self._prefix + "log", self._prefix + "names"
        directory = files(__package__) / "scripts"
        common = (directory / "common.lua").read_bytes()
        self._texts = {name: common + (directory / f"{name}.lua").read_bytes() for name in NAMES}
        keys = [self._prefix + key for key in KEYS]
        self._starts = {}
        for name, text in self._texts.items():
            digest = hashlib.sha1(text, usedforsecurity=False).hexdigest()
            self._starts[name] = encode_words("EVALSHA", digest, len(keys) + 1, *keys)

    async def load(self, connection: RedisConnection) -> None:
        """Load all scripts; a Redis that was restarted has forgotten them."""
        for text in self._texts.values():
            await connection.ask("SCRIPT", "LOAD", text)

    def call(self, name: str, server: str, *arguments: str | int) -> bytes:
        """Return the command that calls a script for a server; the server is its first argument."""
        words = encode_words(server, *arguments)
        return self.call_encoded(name, server, words, 1 + len(arguments))

    def call_encoded(self, name: str, server: str, words: bytes, count: int) -> bytes:
        """Do the same with arguments that are encoded."""
        owned = encode_words(f"{self._prefix}owned:{server}")
        return b"*%d\r\n%b%b%b" % (len(KEYS) + 4 + count, self._starts[name], owned, words)
