"""Lines out of a client's chunk: sanitised, and joined into blocks of messages."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from .framing import ENDING, REPLACEMENT

REPLACEMENT_GROWTH = 3
"""A byte that is no UTF-8 leaves as U+FFFD, which is three: a line can leave that many times longer than it came."""

BLOCK_LIMIT = 64_000
"""Bytes in a block of messages as sent, but for a single longer message: a little under what TCP hands on in one piece (65,483 over loopback,
65,160 over Ethernet). A little over it cost the server 20 % more a delivery."""

BLOCK_TOLERANCE = 1_000
"""Bytes by which a block may exceed BLOCK_LIMIT, so that a chunk can be cut into equal blocks."""

BLOCK_LINES = 8_000
"""Lines parsed at once for a block, blank ones included: 1 ms at most, whatever is in them."""

_TAB, _LF, _CR, _DELETE = 0x09, 0x0A, 0x0D, 0x7F

_ASCII_CONTROLS = [*(code for code in range(0x20) if code != _TAB), _DELETE]

_OTHER_CONTROLS = range(0x80, 0xA0)

_LINE_SEPARATORS = [0x2028, 0x2029]  # str.splitlines and many programs end a line there

_BIDIRECTIONAL = [0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A)]

_UNSAFE: dict[bytes, list[str]] = {}  # by what their UTF-8 forms begin with

for _code in (*_OTHER_CONTROLS, *_LINE_SEPARATORS, *_BIDIRECTIONAL):
    _UNSAFE.setdefault(chr(_code).encode()[:-1], []).append(chr(_code))

# 0xff is never part of a UTF-8 sequence: it is decoded to U+FFFD and leaves its neighbours alone.
_MASK_CONTROLS = bytes.maketrans(bytes(_ASCII_CONTROLS), b"\xff" * len(_ASCII_CONTROLS))

_MASK_CONTROLS_BUT_LF = _MASK_CONTROLS[:_LF] + b"\n" + _MASK_CONTROLS[_LF + 1 :]

_CONTROLS_IN_LINES = bytes(code for code in _ASCII_CONTROLS if code not in (_LF, _CR))

_SHORT_CHUNK = 4096  # bytes; measured, see _is_plain


def sanitize(line: bytes) -> str:
    """Return a line as text that cannot drive a terminal, without trailing white space.

    Each of these becomes U+FFFD: bytes that are not UTF-8 (by maximal subparts, as Unicode
    recommends and `bytes.decode` does), control characters other than TAB, line and paragraph
    separators, and bidirectional controls.
    """
    return _decode(line.translate(_MASK_CONTROLS)).rstrip()


def _decode(data: bytes) -> str:
    text = data.decode("utf-8", "replace")
    if data.isascii():
        return text
    for first_bytes, characters in _UNSAFE.items():
        if first_bytes in data:
            # str.translate looks every character of the text up, which takes ten times as long.
            for character in characters:
                text = text.replace(character, REPLACEMENT)
    return text


class Block(NamedTuple):
    """Messages ready to be sent, each behind its sender's name and with its ending, and how many there are."""

    data: bytes
    lines: int


def parse(run: bytes, prefix: bytes) -> tuple[int, Iterator[Block | str]]:
    """Take whole lines from one client; return how many there are, and what they ask for, in order.

    A `Block` holds messages, each behind `prefix`; a `str` is a command line. Unless there is only
    one block, each item is made when it is asked for, in bounded time, and nothing but `run` is
    kept in between. A block exceeds BLOCK_LIMIT by BLOCK_TOLERANCE at most, unless it is a single
    longer message.
    """
    lines = run.count(b"\n")
    if b"\\" in run:
        return lines, _blocks_and_commands(run, prefix)
    return lines, iter(_blocks(run, 0, len(run), lines, prefix))


def _blocks_and_commands(run: bytes, prefix: bytes) -> Iterator[Block | str]:
    start = 0
    while start < len(run):
        if run.startswith(b"\\", start):
            end = run.index(b"\n", start) + 1
            yield sanitize(run[start : end - 1].removesuffix(b"\r"))
        else:
            end = run.find(b"\n\\", start) + 1 or len(run)
            yield from _blocks(run, start, end, run.count(b"\n", start, end), prefix)
        start = end


def _blocks(run: bytes, start: int, end: int, lines: int, prefix: bytes) -> Iterable[Block]:
    """Return the messages from `start` to `end`, which are so many lines, as blocks."""
    sent = end - start + lines * (len(prefix) + len(ENDING))
    if lines > BLOCK_LINES or sent > BLOCK_LIMIT:
        blocks = max(-(-lines // BLOCK_LINES), -(-sent // BLOCK_LIMIT))
        return _several_blocks(run, start, end, -(-(end - start) // blocks), prefix)
    block = _block(run[start:end], lines, prefix)  # the usual case, without the cost of a generator
    if block and _is_too_large(block):
        return _several_blocks(run, start, end, -(-(end - start) // REPLACEMENT_GROWTH), prefix)
    return (block,) if block else ()


def _several_blocks(run: bytes, start: int, end: int, step: int, prefix: bytes) -> Iterator[Block]:
    """Make a block of about each `step` bytes, so that they are few and equal in size."""
    while start < end:
        stop, lines = _find_block_end(run, start, min(start + step, end), len(prefix + ENDING))
        block = _block(run[start:stop], lines, prefix)
        if block and _is_too_large(block):  # replacements made it grow: a third is certain to fit
            third = run.rfind(b"\n", start, start + (stop - start) // REPLACEMENT_GROWTH)
            stop = (third if third >= 0 else run.index(b"\n", start)) + 1
            block = _block(run[start:stop], run.count(b"\n", start, stop), prefix)
            step = -(-step // REPLACEMENT_GROWTH)
        if block:
            yield block
        start = stop


def _is_too_large(block: Block) -> bool:
    return block.lines > 1 and len(block.data) > BLOCK_LIMIT + BLOCK_TOLERANCE


def _find_block_end(run: bytes, start: int, target: int, growth: int) -> tuple[int, int]:
    """Return where a block from `start` to about `target` can end, and its number of lines."""
    stop = run.index(b"\n", target - 1) + 1
    while True:
        lines = run.count(b"\n", start, stop)
        size = stop - start
        sent = size + lines * growth
        if lines == 1 or (lines <= BLOCK_LINES and sent <= BLOCK_LIMIT + BLOCK_TOLERANCE):
            return stop, lines
        # At least a sixteenth less each time, however unevenly the lines are distributed.
        fitting = min(size * BLOCK_LIMIT // sent, size * BLOCK_LINES // lines, size * 15 // 16)
        stop = run.rfind(b"\n", start, start + fitting) + 1 or run.index(b"\n", start) + 1


def _block(chunk: bytes, lines: int, prefix: bytes) -> Block | None:
    """Return the messages of a chunk of whole lines as a block, None if all of them are blank."""
    if _is_plain(chunk):
        if chunk.isspace() and chunk.count(b"\r") == chunk.count(ENDING):
            return None  # known without a look at each line: a flood of blank lines costs little
        if b"\r" not in chunk:
            whole = chunk.split(b"\n")
            whole.pop()  # what follows the last LF: nothing
        else:
            whole = chunk.splitlines()  # replacing CR LF first would take three times as long
        if len(whole) == lines:  # otherwise there is a CR that does not belong to an ending
            texts = list(filter(None, map(bytes.rstrip, whole)))
            texts[0] = prefix + texts[0]  # after the join it would copy the whole block once more
            texts[-1] += ENDING
            return Block((ENDING + prefix).join(texts), len(texts))
    text = _decode(chunk.replace(ENDING, b"\n").translate(_MASK_CONTROLS_BUT_LF))
    if text.isspace():
        return None
    messages = list(filter(None, map(str.rstrip, text.split("\n"))))
    start, ending = prefix.decode(), ENDING.decode()
    messages[0] = start + messages[0]
    messages[-1] += ending
    return Block((ending + start).join(messages).encode(), len(messages))


def _is_plain(chunk: bytes) -> bool:
    """Return whether a chunk is ASCII without controls, except for TAB, LF and CR."""
    if not chunk.isascii():
        return False
    if len(chunk) < _SHORT_CHUNK:
        return len(chunk.translate(None, _CONTROLS_IN_LINES)) == len(chunk)
    # One search for each takes half as long as one pass through a table.
    return not any(map(chunk.__contains__, _CONTROLS_IN_LINES))
