"""The scripts that Redis executes atomically; `scripts/common.lua` lists their keys."""

import hashlib
from importlib.resources import files

from .resp import Prefix, RedisConnection, encode

KEYS = ("log", "top", "epoch", "servers", "beats", "names", "next", "freed", "dead")


class Scripts:
    """Encodes calls of the scripts for one room."""

    def __init__(self, room: str) -> None:
        # The braces are a hash tag: a Redis Cluster keeps all keys of a room on one node.
        self._prefix = f"broadcast:{{{room}}}:"
        self.log, self.names = self._prefix + "log", self._prefix + "names"
        self._scripts: dict[str, tuple[bytes, Prefix]] = {}  # text, and how a call begins
        folder = files(__package__) / "scripts"
        for name in ("hello", "write", "heartbeat", "reap"):
            text = b"".join((folder / f"{part}.lua").read_bytes() for part in ("common", name))
            digest = hashlib.sha1(text, usedforsecurity=False).hexdigest()
            keys = (self._prefix + key for key in KEYS)
            self._scripts[name] = text, Prefix("EVALSHA", digest, len(KEYS) + 1, *keys)

    async def load(self, redis: RedisConnection) -> None:
        """Load all scripts; a Redis that was restarted has forgotten them."""
        for text, _ in self._scripts.values():
            await redis.ask(encode("SCRIPT", "LOAD", text))

    def call(self, name: str, server: str, *arguments: str | bytes | int) -> bytes:
        """Return the command that calls a script for a server, which is its first argument."""
        owned = f"{self._prefix}owned:{server}"
        return encode(owned, server, *arguments, after=self._scripts[name][1])
