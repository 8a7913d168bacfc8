"""One connection to a server: how it is told that it broke."""

from __future__ import annotations

import errno

from broadcast.client.stream import ServerStream
from broadcast.net.connection import Connection


class TestLost:
    def test_timeout_of_the_system_is_told_like_any_other_loss(self) -> None:
        """TCP gives a peer up, too: that is no reason of ours, with its number in parentheses."""
        connection = Connection()
        stream = ServerStream(connection, "host:6969", 65_536)
        assert not stream.is_lost
        connection.lost = TimeoutError(errno.ETIMEDOUT, "Connection timed out")
        assert stream.is_lost
        assert str(stream.lost_error()) == "lost the connection to host:6969"
