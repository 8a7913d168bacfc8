"""Draw a screenshot of the client: `python3 tests/screenshot.py FILE.svg`.

The client runs in tmux, and what its screen shows is drawn.
"""

from __future__ import annotations

import html
import re
import subprocess
import sys
import time
import unicodedata
from pathlib import Path

TOP = Path(__file__).parent.parent
COLUMNS, ROWS = 72, 14
TMUX = ["tmux", "-L", "broadcast-screenshot", "-f", "/dev/null"]
CELL_WIDTH, CELL_HEIGHT = 8.4, 18
COLOURS = dict(
    zip(
        map(str, [*range(31, 37), *range(91, 97)]),
        [
            "#e06c75",
            "#98c379",
            "#d7af5f",
            "#61afef",
            "#c678dd",
            "#56b6c2",
            "#ff8a93",
            "#b5e890",
            "#f0cf80",
            "#80c6ff",
            "#e0a0ff",
            "#7fe0ec",
        ],
        strict=True,
    )
)


def tmux(*arguments: str) -> str:
    return subprocess.run([*TMUX, *arguments], check=True, capture_output=True, text=True).stdout


def see(text: str) -> None:
    """Wait until this is on Attila's screen."""
    deadline = time.monotonic() + 10
    while text not in tmux("capture-pane", "-p", "-t", "room:attila"):
        if time.monotonic() > deadline:
            raise SystemExit(f"not seen: {text}")
        time.sleep(0.05)


def play() -> str:
    """Have three people talk; return Attila's screen, with its colours."""
    client = f"{sys.executable} {TOP}/main_client.py --port 16970 --user"
    tmux(
        "new-session",
        "-d",
        "-s",
        "room",
        "-x",
        str(COLUMNS),
        "-y",
        str(ROWS),
        f"{sys.executable} {TOP}/main_server.py --port 16970",
    )
    try:
        time.sleep(1)
        tmux("new-window", "-t", "room:", "-n", "attila", f"{client} Attila")
        see("Attila>")
        time.sleep(0.5)
        for name in ("zoe", "bob"):
            tmux("new-window", "-t", "room:", "-n", name, f"{client} {name}")
            see(f"* {name} joined")
        for window, keys, seen in (
            ("zoe", "good morning!", "good morning!"),
            ("attila", "hi zoe, hi bob", "hi zoe, hi bob"),
            ("bob", "ATTILA: does what arrives disturb what you type?", "disturb what you type?"),
            ("attila", "\\clients", "3 clients"),
        ):
            tmux("send-keys", "-t", f"room:{window}", "-l", keys)
            tmux("send-keys", "-t", f"room:{window}", "Enter")
            see(seen)
        tmux(
            "send-keys",
            "-t",
            "room:attila",
            "-l",
            "not at all: this line is still being typed, and it",
        )
        tmux("send-keys", "-t", "room:zoe", "-l", "日本語 too 🙂")
        tmux("send-keys", "-t", "room:zoe", "Enter")
        see("too 🙂")
        see("being typed, and it")
        return tmux("capture-pane", "-p", "-e", "-t", "room:attila")
    finally:
        tmux("kill-server")


def draw(screen: str) -> str:
    """Return the screen as SVG."""
    shapes = []
    for row, line in enumerate(screen.rstrip("\n").split("\n")):
        style, column = "", 0
        for piece in re.split(r"(\x1b\[[0-9;]*m)", line):
            if piece.startswith("\x1b"):
                codes = piece[2:-1].split(";")
                fill = next((COLOURS[code] for code in codes if code in COLOURS), "")
                style = (
                    f' fill="{fill}"'
                    if fill
                    else ' opacity="0.55"'
                    if "2" in codes
                    else ' font-weight="bold"'
                    if "1" in codes
                    else ""
                )
                continue
            for word in re.finditer(r"\S+|\s+", piece):
                cells = sum(
                    2 if unicodedata.east_asian_width(character) in "WF" else 1
                    for character in word[0]
                )
                if not word[0].isspace():
                    x, y = 12 + column * CELL_WIDTH, 26 + row * CELL_HEIGHT
                    length = (
                        f' textLength="{cells * CELL_WIDTH:.1f}" lengthAdjust="spacingAndGlyphs"'
                    )
                    shapes.append(
                        f'<text x="{x:.1f}" y="{y}"{length}{style}>{html.escape(word[0])}</text>'
                    )
                column += cells
    width, height = 24 + COLUMNS * CELL_WIDTH, 24 + ROWS * CELL_HEIGHT
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height}" '
        'font-family="monospace" font-size="14" fill="#dcdfe4">\n'
        f'<rect width="100%" height="100%" rx="8" fill="#23272e"/>\n'
        + "\n".join(shapes)
        + "\n</svg>\n"
    )


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(draw(play()), encoding="utf-8")
