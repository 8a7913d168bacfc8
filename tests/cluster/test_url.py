"""The URL of a Redis."""

from __future__ import annotations

import re
import ssl
from pathlib import Path

import pytest
from helpers import CERTIFICATE

from broadcast import ClusterError
from broadcast.cluster.url import parse_url


class TestPlain:
    def test_everything_but_the_host_has_a_default(self) -> None:
        url = parse_url("redis://example.org")
        assert url == ("example.org", 6379, "", "", 0, None)

    @pytest.mark.parametrize(
        ("text", "host", "port", "database"),
        [
            ("redis://localhost:7000", "localhost", 7000, 0),
            ("redis://localhost:65535/", "localhost", 65535, 0),
            ("redis://127.0.0.1/12", "127.0.0.1", 6379, 12),
            ("redis://[::1]:7000/3", "::1", 7000, 3),
        ],
    )
    def test_host_port_and_database(self, text: str, host: str, port: int, database: int) -> None:
        url = parse_url(text)
        assert (url.host, url.port, url.database) == (host, port, database)

    @pytest.mark.parametrize(
        ("login", "user", "password"),
        [
            ("", "", ""),
            (":secret@", "", "secret"),
            ("room:secret@", "room", "secret"),
            ("r%40om:a%3Ab%2Fc%25@", "r@om", "a:b/c%"),
        ],
    )
    def test_user_and_password_are_unquoted(self, login: str, user: str, password: str) -> None:
        url = parse_url(f"redis://{login}localhost")
        assert (url.host, url.user, url.password) == ("localhost", user, password)

    def test_text_has_the_address_alone(self) -> None:
        assert str(parse_url("redis://room:secret@localhost:7000/3")) == "localhost:7000"
        assert str(parse_url("redis://[::1]")) == "[::1]:6379"


class TestTLS:
    def test_certificate_is_checked_against_the_file(self) -> None:
        url = parse_url(f"rediss://localhost:7000/?ca={CERTIFICATE}")
        assert (url.host, url.port) == ("localhost", 7000)
        assert url.tls
        assert url.tls.verify_mode is ssl.CERT_REQUIRED
        assert url.tls.check_hostname
        assert len(url.tls.get_ca_certs()) == 1

    def test_name_of_the_file_is_unquoted(self, tmp_path: Path) -> None:
        path = tmp_path / "a & b.pem"
        path.write_bytes(Path(CERTIFICATE).read_bytes())
        quoted = str(path).replace(" ", "%20").replace("&", "%26")
        assert parse_url(f"rediss://localhost?ca={quoted}").tls

    def test_system_is_trusted_without_a_file(self) -> None:
        assert parse_url("rediss://localhost").tls

    def test_file_that_is_missing_or_no_certificate_is_an_error(self, tmp_path: Path) -> None:
        path = tmp_path / "ca.pem"
        with pytest.raises(
            ClusterError, match="certificates of the cluster URL: .*[Nn]o such file"
        ):
            parse_url(f"rediss://localhost?ca={path}")
        path.write_text("no certificate")
        with pytest.raises(ClusterError, match="certificates of the cluster URL: not PEM$"):
            parse_url(f"rediss://localhost?ca={path}")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "localhost:6379",
        "http://localhost",
        "redis://",
        "redis://:secret@",
        "redis://secret@host name",
        "redis://localhost:secret",
        "redis://localhost:0",
        "redis://localhost:65536",
        "redis://localhost/secret",
        "redis://localhost/0/1",
        "redis://localhost?ca=/secret.pem",
        "rediss://localhost?cert=/secret.pem",
        "redis://secret:secret@localhost#0",
    ],
)
def test_bad_url_is_an_error_that_repeats_nothing_of_it(text: str) -> None:
    with pytest.raises(ClusterError, match=re.escape("it must be redis://")) as raised:
        parse_url(text)
    assert "secret" not in str(raised.value)
