"""Which usernames are allowed, and when two are the same."""

from __future__ import annotations

import unicodedata

from ..errors import UsernameError
from .framing import REPLACEMENT

NAME_LIMIT = 32
"""Characters in a username as asked for; a number that tells it from another's comes on top."""

NAME_BYTES = 4 * NAME_LIMIT + len("-1000000000: ")
"""The most bytes that a name, its number and the colon take up in front of a text."""

SENDER_LIMIT = NAME_LIMIT + len("-1000000000")
"""The most characters in a username as given: the limit on what is asked for, and a number."""

_BLANK = frozenset(
    "\u115f\u1160\u2800\u3164\uffa0"
)  # printable, says Unicode, and nothing is to be seen

_UNSEEN = dict.fromkeys(
    [
        0x34F,
        0x17B4,
        0x17B5,
        *range(0x180B, 0x1810),
        *range(0xFE00, 0xFE10),
        *range(0xE0100, 0xE01F0),
    ]
)


def check_username(name: str) -> str:
    """Return `name` if it can be a username; raise UsernameError if it, or its NFKC form, cannot.

    The rules keep a line of the server's own, which begins with `*` or `ERROR `, and another's message from being forged.
    """
    if name.isascii() and name.isalnum() and len(name) <= NAME_LIMIT:
        return name  # no rule applies
    _check_form(name)
    # NFKC takes quadratic time for combining marks: at this point the name is known to be short.
    _check_form(unicodedata.normalize("NFKC", name))
    return name


def _check_form(form: str) -> None:
    if not form:
        raise UsernameError("it is empty")
    if len(form) > NAME_LIMIT:
        raise UsernameError(f"longer than {NAME_LIMIT} characters")
    if any(map(str.isspace, form)):
        raise UsernameError("it has white space in it")
    if not form.isprintable() or REPLACEMENT in form or not _BLANK.isdisjoint(form):
        raise UsernameError("it has characters in it that can't be shown")
    visible = form.translate(_UNSEEN)
    if all(unicodedata.category(character).startswith("M") for character in visible):
        raise UsernameError("it has nothing in it but combining marks")
    if ":" in form:
        raise UsernameError("it has a colon in it")
    if form[0] in "*\\":
        raise UsernameError(f"it begins with {form[0]}")


def name_key(name: str) -> str:
    """Return what all spellings of one name have in common: names are unique by this.

    Characters that are never seen, such as variation selectors, make no difference. Only for text
    as short as a name: NFKC takes quadratic time for combining marks.
    """
    if name.isascii():
        return name.lower()
    visible = unicodedata.normalize("NFKC", name.translate(_UNSEEN))
    return unicodedata.normalize("NFKC", visible.casefold())
