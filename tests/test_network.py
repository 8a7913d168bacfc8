"""A pulled cable between two hosts, which are network namespaces where the machine allows them."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator

import pytest
from helpers import PATIENCE, TOP, StartProgram, linux_only

FAST_KEEPALIVE = """
import sys, broadcast.net.dial as dial
dial.KEEPALIVE.update(TCP_KEEPIDLE=1, TCP_KEEPINTVL=1, TCP_USER_TIMEOUT=2000)
from broadcast.cli import main_client
sys.exit(main_client())
"""
"""A client program that detects a vanished peer within three seconds."""


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, timeout=PATIENCE)


@pytest.fixture
def hosts() -> Iterator[tuple[str, str]]:
    """Two hosts with a cable between them: the first is 10.213.0.1, the second 10.213.0.2."""
    if not shutil.which("ip"):
        pytest.skip("SKIPPED: there is no `ip` to make network namespaces with")
    one, two = f"broadcast-{os.getpid()}-1", f"broadcast-{os.getpid()}-2"
    try:
        ip("netns", "add", one)
        ip("netns", "add", two)
        cable = "link add cable1 netns {} type veth peer name cable2 netns {}"
        ip(*cable.format(one, two).split())
        for host, end, address in (
            (one, "cable1", "10.213.0.1/24"),
            (two, "cable2", "10.213.0.2/24"),
        ):
            ip("-n", host, "address", "add", address, "dev", end)
            ip("-n", host, "link", "set", end, "up")
    except subprocess.CalledProcessError as problem:
        why = problem.stderr.decode().strip()
        pytest.skip(f"SKIPPED: this machine allows no network namespaces: {why}")
    else:
        yield one, two
    finally:
        for host in (one, two):
            subprocess.run(
                ["ip", "netns", "delete", host], check=False, capture_output=True, timeout=PATIENCE
            )


@linux_only("has network namespaces")
def test_both_sides_detect_a_pulled_cable(hosts: tuple[str, str], program: StartProgram) -> None:
    one, two = hosts
    address = ["--host", "10.213.0.1"]
    server = program(
        "main_server.py",
        *address,
        "--port",
        "0",
        "--timeout",
        "2",
        prefix=["ip", "netns", "exec", one],
        cwd=TOP,
    )
    client = program(
        FAST_KEEPALIVE,
        *address,
        "--port",
        str(server.port),
        "--listen",
        "--heartbeat",
        "1",
        prefix=["ip", "netns", "exec", two],
        cwd=TOP,
    )
    while "anonymous in from" not in server.error_line():
        assert client.process.poll() is None
    ip("-n", two, "link", "set", "cable2", "down")
    began = time.monotonic()
    while "out: timed out" not in server.error_line():
        assert server.process.poll() is None
    assert time.monotonic() - began < 2 + 2
    assert client.wait_exit() == 1
    assert "lost the connection to 10.213.0.1" in client.errors()
