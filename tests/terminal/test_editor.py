"""The line editor: keys, pasting, completion, history, and their limits."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from broadcast.protocol.framing import LINE_LIMIT
from broadcast.terminal.editor import CursorRow, Editor, Key, LeftOut
from broadcast.terminal.input_history import HISTORY_LIMIT

LEFT, RIGHT, UP, DOWN, HOME, END, DELETE = (
    "\x1b[D",
    "\x1b[C",
    "\x1b[A",
    "\x1b[B",
    "\x1b[H",
    "\x1b[F",
    "\x1b[3~",
)
WORDS = ["\\exit", "\\clients", "\\clear", "Anneli", "annabel", "Attila", "B\u00e9la"]


def complete(word: str) -> Sequence[str]:
    return [
        candidate
        for candidate in WORDS
        if word and candidate.casefold().startswith(word.casefold())
    ]


def after(*typed: str) -> Editor:
    """Return an editor after this was typed without entering a line."""
    editor = Editor(complete)
    for text in typed:
        assert editor.feed(text) == []
    return editor


def shown(editor: Editor) -> str:
    """Return the line with a bar for the cursor."""
    return editor.line[: editor.cursor] + "|" + editor.line[editor.cursor :]


def test_line_is_entered_by_either_line_ending() -> None:
    editor = Editor(complete)
    assert editor.feed("one\rtwo\nthree\r\n\r\rfo") == ["one", "two", "three", "", ""]
    assert editor.feed("ur\r") == ["four"]
    assert editor.feed("\nfive\r") == ["five"], "the LF belonged to the CR before it"
    assert shown(editor) == "|"


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ([LEFT], "one two  thre|e"),
        (["\x1bOD"], "one two  thre|e"),
        (["\x02"], "one two  thre|e"),
        ([RIGHT], "one two  three|"),
        ([LEFT, LEFT, RIGHT], "one two  thre|e"),
        ([LEFT, LEFT, "\x1bOC"], "one two  thre|e"),
        ([LEFT, LEFT, "\x06"], "one two  thre|e"),
        *(([home], "|one two  three") for home in (HOME, "\x1bOH", "\x1b[1~", "\x1b[7~", "\x01")),
        *(
            ([HOME, end], "one two  three|")
            for end in (END, "\x1bOF", "\x1b[4~", "\x1b[8~", "\x05")
        ),
        ([HOME, LEFT, "x"], "x|one two  three"),
        (["\x7f"], "one two  thre|"),
        (["\x08"], "one two  thre|"),
        ([HOME, "\x7f"], "|one two  three"),
        ([HOME, DELETE], "|ne two  three"),
        ([HOME, "\x04"], "|ne two  three"),
        ([DELETE], "one two  three|"),
        ([LEFT, "\x15"], "|e"),
        ([HOME, RIGHT, "\x0b"], "o|"),
        (["\x17"], "one two  |"),
        (["\x17", "\x17"], "one |"),
        ([LEFT, "\x17"], "one two  |e"),
        (["\x17", "\x17", "\x17", "\x17"], "|"),
        ([LEFT * 6, "\x17"], "one | three"),
        ([LEFT * 5, "\x17"], "one |three"),
        (["\x03"], "|"),
        ([HOME, "\x03", "x"], "x|"),
        ([LEFT, "XY"], "one two  threXY|e"),
        *(([key], "one two  |three") for key in ("\x1bb", "\x1b[1;5D", "\x1bO5D", "\x1bOd")),
        (["\x1bb" * 2], "one |two  three"),
        (["\x1bb" * 9], "|one two  three"),
        *(([HOME, key], "one| two  three") for key in ("\x1bf", "\x1b[1;5C", "\x1bOc")),
        ([HOME, "\x1bf" * 2], "one two|  three"),
        ([HOME, "\x1bf" * 9], "one two  three|"),
        ([HOME, "\x1bd"], "| two  three"),
        ([HOME, "\x1bd\x1bd"], "|  three"),
        (["\x1b\x7f"], "one two  |"),
        (["\x1b\x7f\x1b\x7f"], "one |"),
        ([LEFT, "\x1b\x7f"], "one two  |e"),
    ],
)
def test_keys_move_the_cursor_and_erase_text(keys: list[str], expected: str) -> None:
    assert shown(after("one two  three", *keys)) == expected


def test_keys_for_the_program_are_returned_in_order() -> None:
    editor = Editor(complete)
    assert editor.feed("\x03\x04\x0c\x1aa\x1a\r\x03") == [
        Key.INTERRUPT,
        Key.END,
        Key.REDRAW,
        Key.SUSPEND,
        Key.SUSPEND,
        "a",
        Key.INTERRUPT,
    ]
    assert editor.feed("half\x0c\x03\x03") == [Key.REDRAW, Key.INTERRUPT], (
        "on a half-typed line Ctrl-C only clears it"
    )
    assert editor.feed("half\x04\x15\x04") == [Key.END]


def test_word_of_letters_and_digits_ends_at_punctuation_and_keeps_its_marks() -> None:
    line = "don't e\u0301te\u0301-2!\u0301 "
    seen = [shown(after(line, "\x1bb" * count)) for count in range(1, 6)]
    assert [text.index("|") for text in seen] == [12, 6, 4, 0, 0]
    seen = [shown(after(line, HOME, "\x1bf" * count)) for count in range(1, 6)]
    assert [text.index("|") for text in seen] == [3, 5, 11, 13, 16]
    assert shown(after("a!\u0301b", "\x1b\x7f", "\x1b\x7f")) == "|"


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        (["\x17", "x", "\x19"], "one two xthree|"),
        (["\x17", "\x17", "\x19"], "one two three|"),
        (["\x17", LEFT, "\x17", "\x19"], "one two| "),
        (["\x15", "\x19\x19"], "one two threeone two three|"),
        ([HOME, "\x0b", "a", "\x19"], "aone two three|"),
        ([HOME, "\x1bd\x1bd", END, "\x19"], " threeone two|"),
        (["\x1b\x7f\x1b\x7f", HOME, "\x19"], "two three|one "),
        ([LEFT * 3, "\x17\x1bd", "\x19"], "one two three|"),
        (["\x03", "new ", "\x19"], "new one two three|"),
        (["\x17", "\x0b", "\x19"], "one two three|"),
        (["\x7f", "\x19"], "one two thre|"),
        (["\x17\r", "\x19"], "three|"),
    ],
)
def test_deleted_text_is_inserted_again(keys: list[str], expected: str) -> None:
    editor = Editor(complete)
    editor.feed("one two three" + "".join(keys))
    assert shown(editor) == expected


def test_search_finds_the_latest_line_and_then_older_ones() -> None:
    editor = Editor(complete)
    editor.feed("alpha one\rbeta\rAlpha two\rgamma\rdraft" + LEFT)
    seen = []
    for keys in ("\x12", "al", "\x12", "\x12", "x", "\x7f", "\x7f\x7fbe"):
        assert editor.feed(keys) == []
        seen.append((editor.search, editor.line))
    assert seen == [
        ("(search: ) ", "draft"),
        ("(search: al) ", "Alpha two"),
        ("(search: al) ", "alpha one"),
        ("(not found: al) ", "alpha one"),
        ("(not found: alx) ", "alpha one"),
        ("(search: al) ", "Alpha two"),
        ("(search: be) ", "beta"),
    ]
    for cancel in ("\x07", "\x03"):
        editor.feed(cancel)
        assert (editor.search, shown(editor)) == ("", "draf|t")
        editor.feed("\x12beta")
        assert editor.line == "beta"
    assert editor.feed(HOME + "x\r") == ["xbeta"]
    assert editor.feed("\x12two\r") == ["Alpha two"]
    assert editor.feed("\x12beta" + UP + UP + "\r") == ["Alpha two"], "Up goes on from there"
    assert editor.feed("half\x12nowhere\r") == ["half"]
    assert editor.feed("\r\x12\n") == ["", ""]


def test_combining_marks_move_with_their_character() -> None:
    line = "ae\u0301\u20dd\u2764\ufe0fb"
    assert [shown(after(line, LEFT * count)) for count in range(6)] == [
        "ae\u0301\u20dd\u2764\ufe0fb|",
        "ae\u0301\u20dd\u2764\ufe0f|b",
        "ae\u0301\u20dd|\u2764\ufe0fb",
        "a|e\u0301\u20dd\u2764\ufe0fb",
        "|ae\u0301\u20dd\u2764\ufe0fb",
        "|ae\u0301\u20dd\u2764\ufe0fb",
    ]
    assert shown(after(line, HOME, RIGHT * 2)) == "ae\u0301\u20dd|\u2764\ufe0fb"
    assert shown(after(line, "\x7f\x7f")) == "ae\u0301\u20dd|"
    assert shown(after(line, HOME, RIGHT, DELETE)) == "a|\u2764\ufe0fb"
    assert shown(after("\u0301\u0301", LEFT)) == "|\u0301\u0301", (
        "marks without a character before them"
    )
    assert shown(after("\U0001f469\u200d\U0001f4bb", LEFT)) == "\U0001f469\u200d|\U0001f4bb"
    assert shown(after("\U0001f469\u200d\U0001f4bb", LEFT * 2)) == "|\U0001f469\u200d\U0001f4bb"


def test_arrow_keys_walk_through_the_history() -> None:
    editor = Editor(complete)
    editor.feed("one\rtwo\rtwo\r\rthree\rhalf")
    seen = []
    for key in (UP, "\x10", "\x1bOA", UP, DOWN, "\x0e", "\x1bOB", DOWN):
        editor.feed(key)
        seen.append(shown(editor))
    assert seen == ["three|", "two|", "one|", "one|", "two|", "three|", "half|", "half|"]
    assert editor.feed(UP + UP + "x\r") == ["twox"]
    assert editor.feed(UP + UP + "\r" + UP) == ["three"]
    assert shown(editor) == "three|"
    assert shown(after("half", "\x03", DOWN, UP)) == "|", "what was cleared was not entered"
    editor.feed("\x03" + UP + DOWN)
    assert shown(editor) == "|"


def test_history_is_bounded() -> None:
    editor = Editor(complete)
    editor.feed("".join(f"{number}\r" for number in range(HISTORY_LIMIT + 5)))
    editor.feed(UP * (2 * HISTORY_LIMIT))
    assert editor.line == "5"
    editor.feed(DOWN * (2 * HISTORY_LIMIT))
    assert editor.line == ""


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("\\e\t", "\\exit |"),
        ("\\e\tx", "\\exit x|"),
        ("\\e now" + LEFT * 4 + "\t", "\\exit| now"),
        ("hi b\t", "hi B\u00e9la|"),
        ("b, hi" + HOME + RIGHT + "\t!", "B\u00e9la!|, hi"),
        ("\\c\t", "\\cl|"),
        ("\\c\t\t", "\\clients|"),
        ("\\c\t\t\t", "\\clear|"),
        ("\\c\t\t\t\t", "\\clients|"),
        ("\\cl\t", "\\clients|"),
        ("\\c\t\t\t!", "\\clear!|"),
        ("\\c\t\t\t" + LEFT + "\t", "\\clear |r"),
        ("AN\t", "Ann|"),
        ("AN\t\t", "Anneli: |"),
        ("AN\t\t\t", "annabel: |"),
        ("AN\t\t\t\t", "Anneli: |"),
        ("anna\t\t", "annabel: |"),
        ("a\t", "Anneli: |"),
        ("a\t\t\t", "Attila: |"),
        ("hi a\t", "hi Anneli|"),
        ("hi AN\t\t\t", "hi annabel|"),
        ("att\thi", "Attila: hi|"),
        (" hi" + HOME + "att\t!", "Attila:!| hi"),
        ("hi" + HOME + "att\t", "Attila: |hi"),
        (":" + HOME + "att\t", "Attila|:"),
        ("x\t\t", "x|"),
        ("\t", "|"),
        ("hi \t", "hi |"),
    ],
)
def test_tab_completes_the_word_before_the_cursor(typed: str, expected: str) -> None:
    assert shown(after(typed)) == expected
    assert shown(after(*typed.replace(LEFT, "\x02"))) == expected, "key by key"


def test_any_other_key_ends_cycling_through_candidates() -> None:
    asked: list[str] = []

    def both(word: str) -> Sequence[str]:
        asked.append(word)
        return [word + "1", word + "2"]

    editor = Editor(both)
    editor.feed("- a\t\t\t")
    assert (editor.line, asked) == ("- a1", ["a"])
    editor.feed(RIGHT + "\t")
    assert (editor.line, asked) == ("- a11", ["a", "a1"])


def test_tab_after_the_only_candidate_starts_a_new_completion() -> None:
    editor = Editor(lambda word: ["\\exit"] if word else ["now"])
    editor.feed("\\e\t\t")
    assert editor.line == "\\exit now"


def test_duplicate_candidates_count_once() -> None:
    editor = Editor(lambda word: ["Anna", "Anna"])
    editor.feed("- a\t")
    assert editor.line == "- Anna"
    editor = Editor(lambda word: ["a1", "a1", "a2"])
    editor.feed("- a1\t")
    assert editor.line == "- a2"


def test_pasted_text_triggers_no_keys() -> None:
    editor = Editor(complete)
    assert editor.feed("say \x1b[200~one\r\ntwo\rthree\nfour\r\n\tf\ti\x03\x04\x1b\x7fve\x1a") == [
        "say one",
        "two",
        "three",
        "four",
    ]
    assert editor.line == "\tf\tive", "keys and TAB have no effect"
    assert editor.feed("\x1b[31m\x1b[D\x1b[201~\x7f!") == []
    assert editor.line == "\tf\tive[31m[!", (
        "the escape is dropped, and the rest of a sequence is text"
    )
    assert editor.feed("\r") == ["\tf\tive[31m[!"]


def test_twenty_pasted_lines_are_twenty_lines_even_without_bracketed_paste() -> None:
    lines = [f"line {number}" for number in range(20)]
    for ending in ("\r", "\n", "\r\n"):
        assert Editor(complete).feed(ending.join(lines) + ending) == lines
        assert (
            Editor(complete).feed("\x1b[200~" + ending.join(lines) + ending + "\x1b[201~") == lines
        )


@pytest.mark.parametrize(
    "sequence",
    [
        "\x1b[5~",
        "\x1b[1;6D",
        "\x1b[<0;12;7M",
        "\x1b[?62;22c",
        "\x1b[0 q",
        "\x1bOP",
        "\x1bO6D",
        "\x1b[[A",
        "\x1bx",
        "\x1b\u00e9",
        "\x1b[Z",
    ],
)
def test_unknown_escape_sequence_is_dropped_as_a_whole(sequence: str) -> None:
    assert shown(after(f"a{sequence}b")) == "ab|"
    assert shown(after("a", *sequence, "b")) == "ab|"


def test_answer_about_the_cursor_is_no_key() -> None:
    assert Editor(complete).feed("a\x1b[5;12Rb\x1b[5;Rc\x1b[1R\r") == [CursorRow(4), "abc"]


def test_lone_escape_does_not_delay_the_keys_after_it() -> None:
    assert Editor(complete).feed("hi\x1b\r") == ["hi"]
    assert Editor(complete).feed("hi\x1b[12\rho\x1b[\x03\x03") == ["hi", Key.INTERRUPT]
    assert shown(after("ab", "\x1b", LEFT)) == "a|b"
    assert shown(after("\x1b", "hello")) == "ello|"
    assert shown(after("a\x1b[\u00e9")) == "a\u00e9|"
    editor = after("\x1b[" + "1" * 10_000, "1" * 10_000)
    assert len(editor._unfinished) < 300
    assert editor.feed("x\x15ok\r") == ["ok"]


def test_characters_that_are_not_text_are_dropped() -> None:
    assert shown(after("a\x00\x0f\x1d\x80\x9b\udc80\x85b")) == "ab|"


def test_line_is_limited_in_bytes_and_says_what_it_left_out() -> None:
    editor = Editor(complete)
    assert editor.feed("\u00e9" * LINE_LIMIT) == [Key.BELL]
    assert len(editor.line.encode()) == LINE_LIMIT
    assert editor.feed(HOME + "abc") == [Key.BELL]
    assert editor.line[0] == "\u00e9"
    assert editor.feed(DELETE + "ab") == []
    assert editor.feed("\u00e9\u00e9c") == [Key.BELL]
    assert editor.line[:3] == "ab\u00e9"
    assert (editor.cursor, len(editor.line.encode())) == (2, LINE_LIMIT)
    assert editor.feed("\r") == ["ab" + "\u00e9" * (LINE_LIMIT // 2 - 1), LeftOut(32_774)]
    editor.feed("a" + "\u00e9" * LINE_LIMIT)
    assert len(editor.line.encode()) == LINE_LIMIT - 1, "a character is never cut in half"
    assert editor.feed("\x03\r") == [""], "nothing is left out of a line that was given up"
    assert Editor(complete).feed("x" * (3 * LINE_LIMIT) + "\rnext\r") == [
        Key.BELL,
        "x" * LINE_LIMIT,
        LeftOut(2 * LINE_LIMIT),
        "next",
    ]


def test_paste_says_once_what_it_left_out() -> None:
    editor = Editor(complete)
    assert editor.feed("\x1b[200~" + "x" * LINE_LIMIT + "\t") == []
    assert editor.feed("yz\x1b[201~") == [LeftOut(3)]
    assert editor.feed("\r") == ["x" * LINE_LIMIT]
    pasted = f"{'x' * LINE_LIMIT}y\r\n{'z' * LINE_LIMIT}12\n"
    assert editor.feed(f"\x1b[200~{pasted}\x1b[201~") == [
        "x" * LINE_LIMIT,
        LeftOut(1),
        "z" * LINE_LIMIT,
        LeftOut(2),
    ]


@pytest.mark.parametrize(
    ("pasted", "entered", "line"),
    [
        ("\\exit", [], "\\exit"),
        ("\\exit\n", ["\\exit"], ""),
        ("\\exit\r\n", ["\\exit"], ""),
        ("\\a\n\\b\n", [" \\a", " \\b"], ""),
        ("\\a\r\n\\b\r\n", [" \\a", " \\b"], ""),
        ("\\a\n\\b", [" \\a"], " \\b"),
        ("a\n\\b\nc", ["a", " \\b"], "c"),
        ("a\nb\n", ["a", "b"], ""),
        ("\\a\n\n", [" \\a", ""], ""),
    ],
)
def test_no_line_is_a_command_when_several_are_pasted(
    pasted: str, entered: list[str], line: str
) -> None:
    for before, after_it in (("", ""), ("x\x7f", "y\x15\\exit\r")):
        editor = Editor(complete)
        events = editor.feed(f"{before}\x1b[200~{pasted}\x1b[201~")
        assert (events, shown(editor)) == (entered, line + "|")
        editor.feed(after_it)
        assert not after_it or editor.feed(UP + "\r") == ["\\exit"], "a typed one still is"


def test_longest_command_can_still_become_a_text() -> None:
    command = "\\" + "x" * (LINE_LIMIT - 2)
    editor = Editor(complete)
    assert editor.feed(f"\x1b[200~a\n{command}y\n\x1b[201~") == ["a", f" {command}", LeftOut(1)]


def test_input_may_be_split_anywhere() -> None:
    chosen = random.Random(4)
    pieces = [
        *"ab \u6f22\u0301\r\n\t\x7f\x08\x15\x17\x0b\x03\x04\x0c\x1b",
        LEFT,
        RIGHT,
        UP,
        DOWN,
        HOME,
        END,
        DELETE,
        "\x1bOD",
        "\x1b[1;5C",
        "\\c\t",
    ]
    pieces += ["\x1b[200~", "\x1b[201~", "\x1b[201~", "\r\n", "word", "\U0001f600"]
    for _ in range(400):
        text = "".join(chosen.choices(pieces, k=30))
        whole, cut, single = Editor(complete), Editor(complete), Editor(complete)
        expected = whole.feed(text)
        middle = chosen.randint(0, len(text))
        assert cut.feed(text[:middle]) + cut.feed(text[middle:]) == expected
        assert [event for character in text for event in single.feed(character)] == expected
        assert shown(whole) == shown(cut) == shown(single)
        assert 0 <= whole.cursor <= len(whole.line)
