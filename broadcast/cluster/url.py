"""The URL of a Redis."""

import re
import ssl
from typing import NamedTuple
from urllib.parse import unquote

from ..errors import ClusterError
from ..net.address import describe_os_error, format_address
from ..net.tls import client_context

SHAPE = re.compile(
    r"(rediss?)://(?:([^:@/?#]*)(?::([^@/?#]*))?@)?(\[[^]]+]|[^:/?#@\s]+)"
    r"(?::(\d{1,5}))?(?:/(\d{0,9}))?(?:\?ca=([^&#]+))?"
)


class RedisURL(NamedTuple):
    """Where a Redis is, and how to log in; its text has no password."""

    host: str
    port: int
    user: str
    password: str
    database: int
    tls: ssl.SSLContext | None

    def __repr__(self) -> str:
        return format_address((self.host, self.port))


def parse_url(text: str) -> RedisURL:
    """Parse a URL. Raises ClusterError, whose text reveals none of it."""
    found = SHAPE.fullmatch(text)
    scheme, user, password, host, port, database, ca = found.groups() if found else [""] * 7
    if not host or int(port or 6379) not in range(1, 65_536) or (ca and scheme == "redis"):
        shape = "redis://[user:password@]host[:6379][/0], or rediss://...[?ca=FILE] for TLS"
        raise ClusterError(f"bad cluster URL: it must be {shape}")
    try:
        tls = client_context(ca and unquote(ca)) if scheme == "rediss" else None
    except OSError as error:
        reason = "not PEM" if isinstance(error, ssl.SSLError) else describe_os_error(error)
        raise ClusterError(f"can't use the certificates of the cluster URL: {reason}") from None
    login = unquote(user or ""), unquote(password or "")
    return RedisURL(host.strip("[]"), int(port or 6379), *login, int(database or 0), tls)
