"""Parse what a client sends: sanitise its lines, and join its messages into blocks."""

import math
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from .framing import ENDING, REPLACEMENT

REPLACEMENT_GROWTH = 3
"""Factor by which sanitising can lengthen a line: an invalid byte becomes U+FFFD, three bytes."""

BLOCK_LIMIT = 64_000
"""Bytes in a block as sent, unless it is a single longer message: just below what TCP passes on in
one piece, because a block just above that costs more per delivery."""

BLOCK_TOLERANCE = 1_000
"""Bytes by which a block may exceed BLOCK_LIMIT, so that a chunk splits into equal blocks."""

BLOCK_LINES = 8_000
"""Lines parsed at once for a block, blank ones included: bounds the time, whatever they contain."""

_ASCII_CONTROLS = bytes(range(0x20)).replace(b"\t", b"") + b"\x7f"

_OTHER_CONTROLS = range(0x80, 0xA0)

_LINE_SEPARATORS = [0x2028, 0x2029]  # str.splitlines and many programs break a line there

_BIDIRECTIONAL = [0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A)]

_UNSAFE: dict[bytes, list[str]] = {}  # keyed by all but the last byte of their UTF-8 forms

for _code in (*_OTHER_CONTROLS, *_LINE_SEPARATORS, *_BIDIRECTIONAL):
    _UNSAFE.setdefault(chr(_code).encode()[:-1], []).append(chr(_code))

# 0xff is never part of a UTF-8 sequence: it decodes to U+FFFD without affecting its neighbours.
_MASK_CONTROLS = bytes.maketrans(_ASCII_CONTROLS, b"\xff" * len(_ASCII_CONTROLS))

_MASK_CONTROLS_BUT_LF = _MASK_CONTROLS[: ord("\n")] + b"\n" + _MASK_CONTROLS[ord("\n") + 1 :]

_CONTROLS_IN_LINES = _ASCII_CONTROLS.translate(None, b"\r\n")

_SHORT_CHUNK = 4096  # bytes; see _is_plain


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
            # str.translate looks up every character of the text, which is far slower.
            for character in characters:
                text = text.replace(character, REPLACEMENT)
    return text


class Block(NamedTuple):
    """Messages as they are sent, each with a sender and a line ending, and their number."""

    data: bytes
    lines: int


def has_messages(chunk: bytes) -> bool:
    """Return whether any of the whole lines in a chunk is not a command."""
    return not chunk.startswith(b"\\") or chunk.count(b"\n\\") + 1 < chunk.count(b"\n")


def parse(chunk: bytes, prefix: bytes) -> tuple[int, Iterator[Block | str]]:
    """Parse whole lines from one client; return their number, and their content in order.

    A `Block` holds messages, each preceded by `prefix`; a `str` is a command line. Items are made
    lazily, each in bounded time, and nothing but `chunk` is kept in between; a single block is made
    at once. A block exceeds BLOCK_LIMIT by at most BLOCK_TOLERANCE, unless it is a single longer
    message.
    """
    lines = chunk.count(b"\n")
    if b"\\" in chunk:
        return lines, _blocks_and_commands(chunk, prefix)
    return lines, iter(_blocks(chunk, 0, len(chunk), lines, prefix))


def _blocks_and_commands(chunk: bytes, prefix: bytes) -> Iterator[Block | str]:
    start = 0
    while start < len(chunk):
        if chunk.startswith(b"\\", start):
            end = chunk.index(b"\n", start) + 1
            yield sanitize(chunk[start : end - 1].removesuffix(b"\r"))
        else:
            end = chunk.find(b"\n\\", start) + 1 or len(chunk)
            yield from _blocks(chunk, start, end, chunk.count(b"\n", start, end), prefix)
        start = end


def _blocks(chunk: bytes, start: int, end: int, lines: int, prefix: bytes) -> Iterable[Block]:
    """Return the messages in `chunk[start:end]`, which has this number of lines, as blocks."""
    sent = end - start + lines * (len(prefix) + len(ENDING))
    if lines > BLOCK_LINES or sent > BLOCK_LIMIT:
        blocks = math.ceil(max(lines / BLOCK_LINES, sent / BLOCK_LIMIT))
        return _several_blocks(chunk, start, end, math.ceil((end - start) / blocks), prefix)
    # The usual case is one block: it is made without the cost of a generator.
    block = _block(chunk[start:end], lines, prefix)
    if block and _is_too_large(block):
        step = math.ceil((end - start) / REPLACEMENT_GROWTH)
        return _several_blocks(chunk, start, end, step, prefix)
    return (block,) if block else ()


def _several_blocks(
    chunk: bytes, start: int, end: int, step: int, prefix: bytes
) -> Iterator[Block]:
    """Yield blocks of about `step` bytes of input each, so that they are few and equal in size."""
    while start < end:
        stop, lines = _find_block_end(chunk, start, min(start + step, end), len(prefix + ENDING))
        block = _block(chunk[start:stop], lines, prefix)
        if block and _is_too_large(block):  # because of replacements; a third always fits
            step = math.ceil(step / REPLACEMENT_GROWTH)
            continue
        if block:
            yield block
        start = stop


def _find_block_end(chunk: bytes, start: int, stop: int, added: int) -> tuple[int, int]:
    """Return where a block that ends near `stop` can end without being too large, and its lines.

    `added`: bytes that are sent with each line.
    """
    stop = chunk.index(b"\n", stop - 1) + 1
    while (lines := chunk.count(b"\n", start, stop)) > 1:
        size = stop - start
        sent = size + lines * added
        if lines <= BLOCK_LINES and sent <= BLOCK_LIMIT + BLOCK_TOLERANCE:
            break
        # Shrink by a sixteenth at least, however unevenly the lines are distributed.
        most = min(size * BLOCK_LIMIT // sent, size * BLOCK_LINES // lines, size * 15 // 16)
        stop = chunk.rfind(b"\n", start, start + most) + 1 or chunk.index(b"\n", start) + 1
    return stop, lines


def _is_too_large(block: Block) -> bool:
    return block.lines > 1 and len(block.data) > BLOCK_LIMIT + BLOCK_TOLERANCE


def _block(chunk: bytes, lines: int, prefix: bytes) -> Block | None:
    """Return the messages in a chunk of whole lines as a block, or None if all are blank."""
    if _is_plain(chunk):
        if chunk.isspace() and chunk.count(b"\r") == chunk.count(ENDING):
            return None  # without splitting: a flood of blank lines must cost little
        # With CR LF, `splitlines` is faster than replacing these first.
        whole = chunk.splitlines() if b"\r" in chunk else chunk[:-1].split(b"\n")
        if len(whole) == lines:  # otherwise there is a CR that is not part of a line ending
            texts = list(filter(None, map(bytes.rstrip, whole)))
            texts[0] = prefix + texts[0]  # doing this after the join would copy the whole block
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
    # In a longer chunk, one search for each control is faster than a pass through the table.
    return not any(map(chunk.__contains__, _CONTROLS_IN_LINES))
