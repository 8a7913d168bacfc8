"""The screen: what it draws on a model terminal and on tmux, compared cell by cell."""

from __future__ import annotations

import os
import random
import re
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from terminal_model import Terminal, cells_of

from broadcast.protocol.messages import Incoming, Message, Notice, ServerError
from broadcast.terminal.screen import InputArea, Screen, cells, fit_prompt

NARROW = "abcdefg hij"
MIXED = "abc d\u00e9e\u0301\u6f22\u5b57\ud55c\uff21\U0001f600\u2764\ufe0f\u200d\t"


def wrapped(text: str, columns: int) -> list[str]:
    """Cut a text into rows, as a terminal does."""
    rows, used = [""], 0
    for character in text:
        if used + cells_of(character) > columns:
            rows.append("")
            used = 0
        rows[-1] += character
        used += cells_of(character)
    return rows


def words_of(text: str, with_space: bool) -> list[str]:
    """Split a text into words, single spaces and wide characters, each with its marks."""
    words: list[str] = []
    for character in text:
        last = [letter for letter in words[-1] if cells_of(letter)][-1:] if words else []
        joins = last and last != [" "] and cells_of(last[0]) == 1 == cells_of(character)
        if words and (not cells_of(character) or (joins and (with_space or character != " "))):
            words[-1] += character
        else:
            words.append(character)
    return words


def lines_of(text: str, columns: int, *, is_message: bool) -> list[str]:
    """Break a text between words; the terminal wraps each line, where a word is too long."""
    lines, used, after_space = [""], 0, False
    for word in words_of(text.replace("\t", "    "), with_space=not is_message):
        width = sum(map(cells_of, word))
        is_word = cells_of(word[0]) == 1 and word[0] != " "
        fits = used + width <= columns
        if fits or not is_message or word != " ":  # no space begins a row of a message
            is_moved = (
                width <= columns if is_word and used < columns else is_message and after_space
            )
            if is_moved and not fits:
                lines.append("")
                used = 0
            lines[-1] += word
            used = sum(map(cells_of, wrapped("-" * used + word, columns)[-1]))
        after_space = " " in word
    return lines


def rows_of(text: str, columns: int, *, is_message: bool) -> list[str]:
    """Return the rows of a text, broken between words where that is possible."""
    lines = lines_of(text, columns, is_message=is_message)
    return [row for line in lines for row in wrapped(line, columns)]


def cursor_in(typed: str, rows: Sequence[str]) -> tuple[int, int]:
    """Return the row and column, in the rows of the input area, of the character after `typed`."""
    index = len(typed.replace("\t", "    "))
    for number, row in enumerate(rows):
        if index < len(row):
            return number, sum(map(cells_of, row[:index]))
        index -= len(row)
    raise AssertionError("not in the area")


class ScreenTest:
    """A screen, its terminal, and what the terminal should show, computed independently."""

    def __init__(self, columns: int, rows: int) -> None:
        self.screen = Screen(columns, rows, coloured=False, bell=False)
        self.terminal = Terminal(columns, rows)
        self.messages: list[str] = []
        self.area = ("", "", 0)
        self.waiting: list[str] = []
        self.scrolled = 0

    def input(self, prompt: str, line: str, cursor: int) -> None:
        self.area = (prompt, line, cursor)
        self.terminal.write(self.screen.above((), InputArea(*self.area, self.waiting)))
        self.check()

    def above(self, lines: Sequence[str]) -> None:
        for line in lines:
            self.messages += lines_of(line, self.terminal.columns, is_message=True)
        written = self.screen.above(lines, InputArea(*self.area, self.waiting))
        self.terminal.write(written)
        self.check()

    def resize(self, columns: int, rows: int) -> None:
        """Wrap everything again, as a terminal does, and redraw."""
        prompt, line, cursor = self.area
        over = self.messages + self.waiting_rows()
        old_columns = self.terminal.columns
        self.terminal = Terminal(columns, rows)
        self.terminal.write("".join(f"{text}\r\n" for text in over))
        lines = lines_of(prompt + line + " ", old_columns, is_message=False)
        self.terminal.write("\r\n".join(lines))
        self.scrolled = self.terminal.scrolled
        area = [row for line in lines for row in wrapped(line, columns)]
        row, column = cursor_in(prompt + line[:cursor], area)
        self.terminal.waits_to_wrap = False
        self.terminal.row += row + 1 - len(area)
        self.terminal.column = column
        self.screen.resize(columns, rows)
        self.input(prompt, line, cursor)

    def waiting_rows(self) -> list[str]:
        """Return the rows of what waits to be sent: the last ones, in less than half the screen."""
        columns, rows = self.terminal.columns, (self.terminal.rows - 1) // 2
        texts = [text.replace("\t", "    ") for text in self.waiting]
        if len(texts) > rows:
            hidden = len(texts) - rows + 1
            texts = [f"{hidden} lines", *texts[hidden:]][:rows]
        shown = []
        for text in texts:
            first, *more = wrapped(f"    \u2026 {text}", columns - 1)
            if more:
                first = wrapped(f"    \u2026 {text}", columns - 2)[0] + "\u2026"
            shown.append(first)
        return shown

    def check(self) -> None:
        prompt, line, cursor = self.area
        columns, rows = self.terminal.columns, self.terminal.rows
        # What is more than a screenful above the cursor is not even broken into rows.
        before = (prompt + line[:cursor]).replace("\t", "    ")
        start = max(0, len(before) // (columns * rows) - 1) * columns * rows
        area = rows_of((before + line[cursor:] + " ")[start:], columns, is_message=False)
        row, column = cursor_in(before[start:], area)
        waiting = self.waiting_rows()
        height = min(len(area), rows - 1 - len(waiting))
        above = [shown for message in self.messages for shown in wrapped(message, columns)]
        above += waiting
        self.scrolled = max(self.scrolled, len(above) + height - rows)
        pictures = []  # several if the area shows only some of its rows, with that of the cursor
        for first in range(max(0, row - height + 1), min(row, len(area) - height) + 1):
            expected = [
                shown.rstrip() for shown in (above + area[first : first + height])[self.scrolled :]
            ]
            pictures.append(
                (
                    expected + [""] * (rows - len(expected)),
                    (len(above) + row - first - self.scrolled, column),
                )
            )
        assert (self.terminal.picture, self.terminal.cursor) in pictures, (self.area, pictures[0])


def some(chosen: random.Random, alphabet: str, most: int) -> str:
    """Return a random text of up to `most` characters that does not start with a mark."""
    return "".join(chosen.choices(alphabet, k=chosen.randint(0, most))).lstrip("\u0301\ufe0f\u200d")


def cursor_for(chosen: random.Random, line: str) -> int:
    """Return a random place in the line where the editor may have the cursor."""
    return chosen.choice(
        [at for at in range(len(line) + 1) if at == len(line) or cells_of(line[at])]
    )


def test_cells_are_terminal_columns() -> None:
    assert [
        sum(map(cells, text))
        for text in (
            "",
            "abc",
            "\u6f22",
            "\uff21",
            "\U0001f600",
            "\u00e9",
            "e\u0301",
            "\u2764\ufe0f",
            "\u200d",
        )
    ] == [*(0, 3, 2, 2, 2, 1, 1, 1, 0)]
    assert sum(map(cells, "a\u6f22e\u0301")) == 4


@pytest.mark.parametrize(
    "alphabet",
    ["a", "\u6f22", "a\u6f22", "e\u0301\U0001f600"],
    ids=["narrow", "wide", "mixed", "marks"],
)
def test_input_of_every_length_is_drawn_with_the_cursor_anywhere(alphabet: str) -> None:
    """This includes full rows, and wide characters in the last column."""
    for length in range(28):
        line = (alphabet * length)[:length]
        test = ScreenTest(10, 6)
        for cursor in (at for at in range(length + 1) if at == length or cells_of(line[at])):
            test.input("> ", line, cursor)
            test.above([f"{length} {cursor}"])


def test_long_conversation_is_drawn_at_any_size() -> None:
    chosen = random.Random(31)
    for _ in range(40):
        columns, rows = (
            chosen.choice([10, 11, 20, 39, 40, 80, 200]),
            chosen.choice([2, 3, 5, 10, 24, 50]),
        )
        alphabet = chosen.choice([NARROW, MIXED])
        test = ScreenTest(columns, rows)
        for _ in range(8):
            line = chosen.choice(
                [some(chosen, alphabet, columns * 3), "x" * (columns * chosen.randint(1, 3) - 2)]
            )
            test.input(chosen.choice(["> ", "", "\u6f22\u5b57> "]), line, cursor_for(chosen, line))
            for _ in range(chosen.randint(0, 3)):
                test.above(
                    [some(chosen, alphabet, columns * 2) for _ in range(chosen.randint(0, 6))]
                )


def test_line_longer_than_the_screen_is_shown_around_the_cursor() -> None:
    chosen = random.Random(32)
    for columns, rows in ((10, 2), (10, 3), (17, 4), (20, 5)):
        test = ScreenTest(columns, rows)
        for alphabet, length in ((NARROW, 400), (MIXED.replace("\t", ""), 2 * columns * rows - 4)):
            line = "x" + "".join(chosen.choices(alphabet, k=length))
            for _ in range(40):
                test.input("> ", line, cursor_for(chosen, line))
                test.above([some(chosen, alphabet, 30)])


@pytest.mark.parametrize("rows", [2, 3, 4, 5, 10, 24])
def test_lines_that_wait_to_be_sent_are_above_the_input_in_less_than_half_the_screen(
    rows: int,
) -> None:
    chosen = random.Random(rows)
    for columns in (10, 20, 40, 80):
        test = ScreenTest(columns, rows)
        for step in range(60):
            test.waiting = [
                some(chosen, MIXED.replace("\u0301", ""), columns)
                for _ in range(chosen.choice([0, 1, 2, 5, 30]))
            ]
            line = some(chosen, NARROW, columns * chosen.randint(0, 3))
            test.input("> ", line, cursor_for(chosen, line))
            test.above([f"message {step}"])


def test_lines_that_wait_to_be_sent_are_redrawn_after_a_resize() -> None:
    chosen = random.Random(35)
    sizes = [(10, 50), (21, 30), (40, 40), (80, 24)]
    for _ in range(60):
        test = ScreenTest(*chosen.choice(sizes))
        for _ in range(5):
            test.waiting = [some(chosen, NARROW, 60) for _ in range(chosen.randint(0, 3))]
            line = some(chosen, NARROW, 40)
            test.input("> ", line, cursor_for(chosen, line))
            test.above([some(chosen, NARROW, 50)])
            test.resize(*chosen.choice(sizes))
            test.above([some(chosen, NARROW, 50)])


def test_lines_that_wait_to_be_sent_are_dim() -> None:
    screen, terminal = Screen(40, 10, coloured=True, bell=False), Terminal(40, 10)
    written = screen.above((), InputArea("> ", "", 0, ["me: hello"]))
    assert "\x1b[2m    \u2026 me: hello\x1b[0m" in written
    terminal.write(written)
    assert terminal.picture[:2] == ["    \u2026 me: hello", ">"]
    terminal.write(screen.leave())
    assert terminal.picture == [""] * 10


@pytest.mark.parametrize(
    ("columns", "prompt"),
    [
        (80, "(no connection, next try in 12 s) Attila> "),
        (40, "(no connection) Attila> "),
        (20, "(off) Attila> "),
        (14, "(off) > "),
        (8, "(off) \u2026"),
        (2, "\u2026"),
    ],
)
def test_prompt_is_cut_to_the_width_there_is(columns: int, prompt: str) -> None:
    states = ["no connection, next try in 12 s", "no connection", "off"]
    assert fit_prompt(states, "Attila", columns) == prompt


def test_screen_is_redrawn_after_a_resize() -> None:
    chosen = random.Random(34)
    sizes = [(10, 24), (20, 24), (21, 30), (40, 20), (80, 24), (200, 50)]
    for _ in range(60):
        test = ScreenTest(*chosen.choice(sizes))
        for _ in range(5):
            line = chosen.choice(
                [
                    some(chosen, chosen.choice([NARROW, MIXED]), 100),
                    "x" * (20 * chosen.randint(1, 5) - 2),
                ]
            )
            test.input("> ", line, cursor_for(chosen, line))
            test.above([some(chosen, NARROW, 50)])
            test.resize(*chosen.choice(sizes))
            test.above([some(chosen, NARROW, 50)])


def test_drawing_a_huge_line_costs_no_more_than_a_screenful() -> None:
    screen = Screen(80, 24, coloured=False, bell=False)

    def seconds(line: str) -> float:
        began = time.process_time()
        for step in range(40):
            assert (
                len(screen.above((), InputArea("> ", line, len(line) * step // 40))) < 80 * 24 + 40
            )
        return time.process_time() - began

    # The least of several: another program may use the core meanwhile.
    huge, screenful = (min(seconds("x" * length) for _ in range(4)) for length in (65_536, 3_000))
    assert huge < 6 * screenful, "without a limit it is 20 times as much"


def test_cursor_is_on_its_character_however_long_the_line() -> None:
    chosen = random.Random(33)
    line = "x" + "".join(chosen.choices(MIXED.replace("\t", ""), k=5_000))
    screen, terminal = Screen(20, 5, coloured=False, bell=False), Terminal(20, 5)
    terminal.write(screen.above(["message"], InputArea("> ", "", 0)))
    for _ in range(100):
        cursor = cursor_for(chosen, line)
        terminal.write(screen.above((), InputArea("> ", line, cursor)))
        screen.resize(20, 5)
        assert terminal.screen[terminal.row][terminal.column][0] == (line[cursor:] + " ")[0]
        assert terminal.scrolled == 0
        assert terminal.picture[0] == "message"


def test_cursor_of_a_long_line_is_in_the_middle_of_the_screen() -> None:
    screen, terminal = Screen(10, 6, coloured=False, bell=False), Terminal(10, 6)
    for cursor, expected in ((0, (0, 2)), (98, (2, 0)), (200, (4, 2))):
        terminal.write(screen.above((), InputArea("> ", "x" * 200, cursor)))
        assert terminal.cursor == expected
        assert (terminal.picture[5], terminal.scrolled) == ("", 0)


def test_tiny_window_still_shows_the_input() -> None:
    screen = Screen(0, 0, coloured=False, bell=False)
    for _ in range(2):
        assert "\u6f22" in screen.above(["message"], InputArea("> ", "\u6f22\u6f22", 1))
        screen.resize(1, 1)


def test_many_lines_are_written_at_once_and_the_input_drawn_once() -> None:
    screen = Screen(40, 10, coloured=False, bell=False)
    screen.above((), InputArea("> ", "half-typed", 4))
    written = screen.above(
        [f"message {number}" for number in range(1_000)], InputArea("> ", "half-typed", 4)
    )
    assert written.count("half-typed") == 1
    assert written.count("\x1b") < 5


def test_screen_is_cleared_left_and_resumed() -> None:
    test = ScreenTest(10, 6)
    test.above(["one", "two"])
    test.input("> ", "x" * 15, 3)
    test.terminal.write(test.screen.clear(InputArea("> ", "x" * 15, 12)))
    assert test.terminal.picture == ["> xxxxxxxx", "xxxxxxx", "", "", "", ""]
    assert test.terminal.cursor == (1, 4)
    test.messages.clear()
    test.above(["three"])
    test.input("> ", "x" * 15, 12)
    test.terminal.write(test.screen.leave())
    assert (test.terminal.picture, test.terminal.cursor) == (
        ["three", "", "", "", "", ""],
        (1, 0),
    )
    test.terminal.write("the shell\r\n")  # while the client is suspended
    test.messages.append("the shell")
    test.screen.resize(10, 6)
    test.input("> ", "x" * 15, 3)
    assert test.screen.leave().endswith("\x1b[0m")


# --- the styles of messages ---

CLOCK = "12:34"


def plain(styled: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", styled)


def test_messages_notices_and_errors_have_their_styles() -> None:
    screen = Screen(80, 24, coloured=True, bell=True)
    texts: list[tuple[Incoming, str]] = [
        (Message("Anna", "hi\tthere"), "12:34 Anna: hi    there"),
        (Notice("Anna joined"), "12:34 * Anna joined"),
        (ServerError("no"), "12:34 ERROR no"),
    ]
    for incoming, text in texts:
        styled = screen.style(incoming, CLOCK, "me")
        assert plain(styled) == text
        assert styled.startswith("12:34 \x1b[")
        assert styled.count("\x1b[0m") == styled.count("\x1b[") / 2, "each colour is reset"
        assert Screen(80, 24, coloured=False, bell=True).style(incoming, CLOCK, "me") == text
    assert "\x1b[2m* Anna" in screen.style(Notice("Anna joined"), CLOCK, "me")
    assert "\x1b[31mERROR" in screen.style(ServerError("no"), CLOCK, "me")


def test_name_always_has_the_same_of_twelve_colours() -> None:
    screen = Screen(80, 24, coloured=True, bell=True)
    seen = {
        screen.style(Message(f"name{number}", ""), CLOCK, "me").split("m")[0]
        for number in range(200)
    }
    assert len(seen) == 12
    assert screen.style(Message("Attila", "x"), CLOCK, "me") == "12:34 \x1b[35mAttila\x1b[0m: x"


@pytest.mark.parametrize(
    ("text", "own_name", "named"),
    [
        ("hi Anna", "Anna", True),
        ("ANNA!", "Anna", True),
        ("anna: hi", "Anna", True),
        ("(anna-)", "Anna", True),
        ("hi Annabel", "Anna", False),
        ("hi Joanna", "Anna", False),
        ("hi Anna-2", "Anna", False),
        ("hi x-Anna", "Anna", False),
        ("hi Anna-2", "Anna-2", True),
        ("a+b?", "a+b", True),
        ("aab", "a+b", False),
        ("STRASSE", "Stra\u00dfe", True),
        ("Be\u0301la", "B\u00e9la", True),
        ("\U0001f600!", "\U0001f600", True),
        ("! !", "", False),
    ],
)
def test_message_with_our_name_is_highlighted_and_rings(
    text: str, own_name: str, named: bool
) -> None:
    for coloured in (True, False):
        for bell in (True, False):
            styled = Screen(80, 24, coloured, bell).style(Message("other", text), CLOCK, own_name)
            assert styled.count("\a") == (named and bell)
            assert ("\x1b[1;7m" in styled) == named, "that is no colour"
            assert plain(styled).rstrip("\a") == f"12:34 other: {text}"
    assert "\a" not in Screen(80, 24, True, True).style(Message(own_name, text), CLOCK, own_name), (
        "our own message"
    )


@pytest.mark.parametrize(
    "filler",
    ["x ", "\u043f\u0440\u0438\u0432\u0435\u0442 ", "\u6f22", "\uff0c", "\u00e9\u0301", "\t"],
)
def test_mention_is_found_anywhere_in_a_long_message(filler: str) -> None:
    screen = Screen(80, 24, coloured=False, bell=True)
    for name, spelling in (
        ("B\u00e9la", "BE\u0301LA"),
        ("Anna", "\uff21nna"),
        ("\u0101" * 32, "a\u0304" * 32),
    ):
        for before in range(0, 1_300, 13):
            text = (filler * before)[:before]
            assert "\a" in screen.style(
                Message("other", f"{text} {spelling}, {filler * 500}"), CLOCK, name
            )
            assert "\a" not in screen.style(
                Message("other", f"{text} x{spelling}x {filler * 500}"), CLOCK, name
            )


@pytest.mark.parametrize(
    "pattern",
    [
        "\u0315\u0301\u0323",
        "\u0f73",
        "a\u0345\u0301",
        "\ufdfa",
        "\u3316",
        "\U0001d164",
        "\ufe0f",
        "-x",
    ],
)
def test_styling_takes_linear_time_whatever_is_received(pattern: str) -> None:
    """The longest message takes 30 ms, but seconds if normalising it takes quadratic time."""
    screen = Screen(80, 24, coloured=True, bell=True)
    text = (pattern * 65_536).encode()[:65_536].decode(errors="ignore")
    began = time.process_time()
    screen.style(Message("other", text), CLOCK, "-x" * 16)
    assert time.process_time() - began < 0.3


def test_bell_rings_once_for_a_message_on_the_screen() -> None:
    screen, terminal = Screen(20, 5, coloured=True, bell=True), Terminal(20, 5)
    lines = [
        screen.style(Message("other", "hi me, me, me and me"), CLOCK, "me"),
        screen.style(Message("other", "hi"), CLOCK, "me"),
    ]
    terminal.write(screen.above(lines, InputArea("me> ", "", 0)))
    assert terminal.bells == 1
    assert terminal.picture == [
        "12:34 other: hi me,",
        "me, me and me",
        "12:34 other: hi",
        "me>",
        "",
    ]


# --- a real terminal ---


class Tmux:
    """A tmux server with one pane, which shows what is written to it."""

    def __init__(self, directory: Path) -> None:
        self._command = ["tmux", "-u", "-f", os.devnull, "-S", str(directory / "socket")]
        self._writes = 0
        fifo = directory / "fifo"
        os.mkfifo(fifo)
        self._pane = os.open(fifo, os.O_RDWR)  # for both, so that opening does not block
        self._tmux(
            "new-session",
            "-d",
            f"stty raw -echo; exec cat '{fifo}'",
            ";",
            "set-option",
            "-g",
            "status",
            "off",
        )

    def close(self) -> None:
        self._tmux("kill-server")
        os.close(self._pane)

    def resize(self, columns: int, rows: int) -> None:
        self._tmux("resize-window", "-x", str(columns), "-y", str(rows))

    def blank(self, columns: int, rows: int) -> None:
        """Clear the screen and the scrollback, and set the size."""
        self.resize(columns, rows)
        self.write("\x1b[H\x1b[J")
        self._tmux("clear-history")

    def write(self, text: str) -> tuple[list[str], tuple[int, int], list[str]]:
        """Write a text; return the rows, the position of the cursor, and the scrollback."""
        self._writes += 1
        data = (
            f"{text}\x1b]2;{self._writes}\x1b\\".encode()
        )  # the title shows that everything before it was processed
        while data:
            data = data[os.write(self._pane, data) :]
        deadline = time.monotonic() + 5
        state = "#{pane_title} #{cursor_y} #{cursor_x} #{history_size}"
        while True:
            about, *shown = self._tmux(
                "display-message", "-p", state, ";", "capture-pane", "-p", "-S", "-"
            ).split("\n")[:-1]
            title, row, column, scrolled = about.split(" ")
            if title == str(self._writes):
                rows = [row.rstrip() for row in shown]
                return rows[int(scrolled) :], (int(row), int(column)), rows[: int(scrolled)]
            assert time.monotonic() < deadline, f"tmux does not show it: {about!r}"

    def _tmux(self, *arguments: str) -> str:
        run = subprocess.run(
            [*self._command, *arguments],
            check=False,
            capture_output=True,
            encoding="utf-8",
            env={**os.environ, "LC_ALL": "C.UTF-8"},
        )
        assert run.returncode == 0, run.stderr
        return run.stdout


@pytest.fixture(scope="module")
def tmux(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tmux]:
    if not shutil.which("tmux"):
        pytest.skip("SKIPPED: there is no tmux to compare the screen and the model terminal with")
    started = Tmux(tmp_path_factory.mktemp("tmux"))
    try:
        yield started
    finally:
        started.close()


ALIKE = MIXED.replace("\u2764\ufe0f\u200d", "")
"""Characters that all terminals show alike, which they do not do with joined emoji."""


@pytest.mark.parametrize(("columns", "rows"), [(80, 24), (40, 10), (200, 50), (10, 3)])
def test_tmux_and_the_model_terminal_show_the_same(tmux: Tmux, columns: int, rows: int) -> None:
    chosen = random.Random(columns)
    screen, terminal = Screen(columns, rows, coloured=True, bell=False), Terminal(columns, rows)
    tmux.blank(columns, rows)
    for step in range(12):
        line = chosen.choice(
            [
                some(chosen, ALIKE, columns * 3),
                "\u6f22" * columns,
                "x" * (columns * chosen.randint(1, 3) - 2),
            ]
        )
        cursor = cursor_for(chosen, line)
        waiting = [some(chosen, ALIKE, columns) for _ in range(chosen.choice([0, 1, 3, 20]))]
        written = screen.above((), InputArea("> ", line, cursor, waiting))
        for _ in range(3):
            texts = [some(chosen, ALIKE, columns * 2) for _ in range(chosen.randint(0, 4))]
            written += screen.above(
                [screen.style(Message("other", text), CLOCK, "me") for text in texts],
                InputArea("> ", line, cursor, waiting),
            )
        if step == 6:
            written += screen.leave() + screen.clear(InputArea("> ", line, cursor, waiting))
        terminal.write(written)
        assert tmux.write(written)[:2] == (terminal.picture, terminal.cursor)


@pytest.mark.parametrize("size", [(80, 24), (40, 10), (200, 50)])
@pytest.mark.parametrize("new_size", [(80, 24), (40, 12), (20, 24)])
def test_tmux_shows_the_right_screen_after_a_resize(
    tmux: Tmux, size: tuple[int, int], new_size: tuple[int, int]
) -> None:
    """The most difficult line ends at the end of a row, with the cursor after it."""
    columns, rows = new_size
    messages = ["first", "m" * 45, "last"]
    for line, cursor in [
        ("x" * 38, 38),
        ("x" * 78, 78),
        ("x" * 78, 20),
        ("\u6f22\u5b57a" * 12, 20),
        ("y" * 50 + "\u6f22" * 20, 70),
        ("words that are wrapped, " * 5, 100),
        ("words that are wrapped, " * 5, 35),
    ]:
        tmux.blank(*size)
        screen = Screen(*size, coloured=False, bell=False)
        tmux.write(
            screen.above((), InputArea("> ", "z" * 3 * columns, 0))
        )  # must not be wrapped with what replaces it
        tmux.write(screen.above(messages, InputArea("> ", line, cursor)))
        tmux.resize(columns, rows)
        screen.resize(columns, rows)
        picture, at, history = tmux.write(screen.above((), InputArea("> ", line, cursor)))
        above = [shown for message in messages for shown in wrapped(message, columns)]
        area = rows_of(f"> {line} ", columns, is_message=False)
        row, column = cursor_in("> " + line[:cursor], area)
        area = [shown.rstrip() for shown in area]
        top = at[0] - row
        assert (picture[top:], at[1]) == (area + [""] * (rows - top - len(area)), column)
        over_it = history + picture[:top]
        if top == 0:  # tmux may have scrolled the old input area away
            over_it = over_it[: len(above)]
        assert over_it == above


@pytest.mark.parametrize("waiting", [[], ["me: one", "me: " + "two " * 12]])
@pytest.mark.parametrize("tiny", [(10, 3), (5, 2), (20, 5), (80, 2)])
def test_tmux_shows_no_debris_after_a_tiny_window(
    tmux: Tmux, tiny: tuple[int, int], waiting: list[str]
) -> None:
    messages = ["first", "m" * 45, "last"]
    for line in (
        "words that are wrapped, " * 5,
        "x" * 78,
        "y" * 200,
        "\u6f22" * 60,
        "two rows of words, and the second one ends in a word of some length " + "z" * 30,
    ):
        tmux.blank(80, 24)
        screen = Screen(80, 24, coloured=False, bell=False)
        tmux.write(screen.above(messages, InputArea("> ", line, len(line), waiting)))
        for size in (tiny, (80, 24), tiny, (20, 4), (80, 24)):
            tmux.resize(*size)
            _, (row, _), _ = tmux.write("")
            if screen.resize(*size):
                screen.locate(row)
            tmux.write(screen.above((), InputArea("> ", line, len(line), waiting)))
        picture, at, history = tmux.write(
            screen.above((), InputArea("> ", line, len(line), waiting))
        )
        area = rows_of(f"> {line} ", 80, is_message=False)
        shown = [row for row in picture if row]
        above = [f"    \u2026 {text}".rstrip() for text in waiting]
        expected = [*messages, *above, *(row.rstrip() for row in area if row.rstrip())]
        assert shown == expected[-len(shown) :], "what is in the scrollback cannot be erased"
        assert [row for row in history + picture if row in messages] == messages
        assert at[1] == cursor_in("> " + line, area)[1]


def test_only_the_answer_to_the_last_question_counts() -> None:
    """Shift-F3 looks like an answer. If it counted, messages would be erased."""

    def erased_rows(*answers: int) -> str:
        screen = Screen(80, 24, coloured=False, bell=False)
        screen.above((), InputArea("> ", "x" * 200, 200))
        for columns in (20, 21):
            assert screen.resize(columns, 5) == "\x1b[6n"
            screen.above((), InputArea("> ", "x" * 200, 200))
        for row in answers:
            screen.locate(row)
        screen.resize(21, 50)
        return screen.above((), InputArea("> ", "x" * 200, 200)).partition("A")[0]

    assert erased_rows(0) == erased_rows(), "the first question was another one"
    assert erased_rows(4, 2) == erased_rows(0, 2) != erased_rows()
    assert erased_rows(4, 2, 0) == erased_rows(4, 2), "there is no third question"


def test_typing_leaves_nothing_in_the_scrollback_of_tmux(tmux: Tmux) -> None:
    tmux.blank(40, 10)
    screen = Screen(40, 10, coloured=False, bell=False)
    for length in range(0, 100, 9):
        assert tmux.write(screen.above((), InputArea("> ", "x" * length, length)))[2] == []
