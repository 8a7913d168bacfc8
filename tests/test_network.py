"""A cable that is pulled: two hosts in network namespaces of the test's own, where the machine allows that."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
from helpers import PATIENCE, TOP

QUICK_WATCH = """
import sys, broadcast.net.dial as dial
dial.KEEPALIVE_IDLE, dial.KEEPALIVE_INTERVAL, dial.UNACKNOWLEDGED_LIMIT = 1, 1, 2000
from broadcast.cli import main_client
sys.exit(main_client())
"""


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
        ip(
            "link",
            "add",
            "cable1",
            "netns",
            one,
            "type",
            "veth",
            "peer",
            "name",
            "cable2",
            "netns",
            two,
        )
        for host, end, address in (
            (one, "cable1", "10.213.0.1/24"),
            (two, "cable2", "10.213.0.2/24"),
        ):
            ip("-n", host, "address", "add", address, "dev", end)
            ip("-n", host, "link", "set", end, "up")
    except subprocess.CalledProcessError as problem:
        pytest.skip(
            f"SKIPPED: this machine allows no network namespaces: {problem.stderr.decode().strip()}"
        )
    else:
        yield one, two
    finally:
        for host in (one, two):
            subprocess.run(
                ["ip", "netns", "delete", host], check=False, capture_output=True, timeout=PATIENCE
            )


def test_both_sides_detect_a_pulled_cable(hosts: tuple[str, str]) -> None:
    one, two = hosts
    arguments = [
        sys.executable,
        "main_server.py",
        "--host",
        "10.213.0.1",
        "--port",
        "0",
        "--timeout",
        "2",
    ]
    server = subprocess.Popen(
        ["ip", "netns", "exec", one, *arguments], cwd=TOP, stderr=subprocess.PIPE, text=True
    )
    client: subprocess.Popen[str] | None = None
    try:
        assert server.stderr
        match = re.search(r":(\d+)$", server.stderr.readline())
        assert match
        client = subprocess.Popen(
            [
                "ip",
                "netns",
                "exec",
                two,
                sys.executable,
                "-c",
                QUICK_WATCH,
                "--host",
                "10.213.0.1",
                "--port",
                match[1],
                "--listen",
            ]
            + ["--heartbeat", "1"],
            cwd=TOP,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        while "anonymous in from" not in server.stderr.readline():
            assert client.poll() is None
        ip("-n", two, "link", "set", "cable2", "down")
        began = time.monotonic()
        while "out: timed out" not in server.stderr.readline():
            assert server.poll() is None
        assert time.monotonic() - began < 2 + 2
        assert client.wait(PATIENCE) == 1
        assert client.stderr and "lost the connection to 10.213.0.1" in client.stderr.read()
    finally:
        for process in (server, client):
            if process:
                process.kill()
                process.communicate()
