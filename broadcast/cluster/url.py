"""The URL of a Redis."""

from __future__ import annotations

import re
import ssl
from dataclasses import dataclass, field
from urllib.parse import parse_qs, unquote, urlsplit

from ..errors import ClusterError
from ..net.address import describe_os_error, format_address
from ..net.tls import client_context

DEFAULT_PORT = 6379

SHAPE = "redis://[user:password@]host[:port][/database], or rediss://...[?ca=FILE] for TLS"


@dataclass(frozen=True, slots=True)
class RedisURL:
    """Where a Redis is, and how to log in; nothing shows its password."""

    host: str
    port: int
    user: str | None
    password: str | None = field(repr=False)
    database: int
    tls: ssl.SSLContext | None

    def __str__(self) -> str:
        return format_address((self.host, self.port))


def parse_url(text: str) -> RedisURL:
    """Parse a URL. Raises ClusterError, without what the URL contains."""
    try:
        parts = urlsplit(text)
        port = parts.port or DEFAULT_PORT
        query = parse_qs(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
        database = re.fullmatch(r"/?(\d{0,9})", parts.path)
    except ValueError:
        raise ClusterError(f"bad cluster URL: it must be {SHAPE}") from None
    is_tls = parts.scheme == "rediss"
    authorities = query.pop("ca", [None]) if is_tls else [None]
    known = parts.scheme in ("redis", "rediss") and not query and not parts.fragment
    if not (known and parts.hostname and database and len(authorities) == 1):
        raise ClusterError(f"bad cluster URL: it must be {SHAPE}")
    try:
        tls = client_context(authorities[0]) if is_tls else None
    except OSError as error:
        reason = "not PEM" if isinstance(error, ssl.SSLError) else describe_os_error(error)
        raise ClusterError(f"can't use the certificates of the cluster URL: {reason}") from None
    return RedisURL(
        parts.hostname,
        port,
        unquote(parts.username) if parts.username else None,
        unquote(parts.password) if parts.password else None,
        int(database[1] or 0),
        tls,
    )
