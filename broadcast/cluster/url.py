"""The URL of a Redis."""

from __future__ import annotations

import re
import ssl
from dataclasses import dataclass, field
from urllib.parse import parse_qs, unquote, urlsplit

from ..errors import ClusterError
from ..net.address import describe_os_error, format_address
from ..net.tls import client_context

SHAPE = "redis://[user:password@]host[:port][/database], or rediss://...[?ca=FILE] for TLS"


@dataclass(frozen=True, slots=True)
class RedisURL:
    """Where a Redis is, and how to log in; its text has no password."""

    host: str
    port: int
    user: str | None
    password: str | None = field(repr=False)
    database: int
    tls: ssl.SSLContext | None

    def __str__(self) -> str:
        return format_address((self.host, self.port))


def parse_url(text: str) -> RedisURL:
    """Parse a URL. Raises ClusterError, whose text has nothing of it."""
    try:
        parts = urlsplit(text)
        query = parse_qs(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
        database = re.fullmatch(r"/?(\d{0,9})", parts.path)
        user, password = (word and unquote(word) for word in (parts.username, parts.password))
        tls = None
        if parts.scheme == "rediss":
            [authorities] = query.pop("ca", [None])
            tls = client_context(authorities)
        elif parts.scheme != "redis":
            raise ValueError
        if query or parts.fragment or not parts.hostname or not database:
            raise ValueError
        number = int(database[1] or 0)
        return RedisURL(parts.hostname, parts.port or 6379, user, password, number, tls)
    except OSError as error:
        reason = "not PEM" if isinstance(error, ssl.SSLError) else describe_os_error(error)
        raise ClusterError(f"can't use the certificates of the cluster URL: {reason}") from None
    except ValueError:
        raise ClusterError(f"bad cluster URL: it must be {SHAPE}") from None
