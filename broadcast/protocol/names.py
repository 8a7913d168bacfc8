"""Decide which usernames are allowed, and when two are the same."""

import unicodedata

from ..errors import UsernameError
from .framing import REPLACEMENT

NAME_LIMIT = 32
"""Characters in a username as requested, without the number that may be added to make it unique."""

NAME_BYTES = 4 * NAME_LIMIT + len("-1000000000: ")
"""Maximum number of bytes that a name, its number and the colon take up before a message."""

SENDER_LIMIT = NAME_LIMIT + len("-1000000000")
"""Maximum number of characters in a username as given: NAME_LIMIT and the number."""

_BLANK = frozenset("\u115f\u1160\u2800\u3164\uffa0")  # Unicode calls them printable

_VARIATION_SELECTORS = [*range(0x180B, 0x1810), *range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0)]

_INVISIBLE = dict.fromkeys([0x34F, 0x17B4, 0x17B5, *_VARIATION_SELECTORS])


def check_username(name: str) -> str:
    """Return `name` if it is a valid username; otherwise raise UsernameError.

    Both the name and its NFKC form must obey the rules, which make it impossible to forge a notice,
    an error or another client's message.
    """
    if name.isascii() and name.isalnum() and len(name) <= NAME_LIMIT:
        return name  # such a name breaks no rule
    _check_form(name)
    # Only now is the name known to be short: NFKC takes quadratic time for combining marks.
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
    visible = form.translate(_INVISIBLE)
    if all(unicodedata.category(character).startswith("M") for character in visible):
        raise UsernameError("it has nothing in it but combining marks")
    if ":" in form:
        raise UsernameError("it has a colon in it")
    if form[0] in "*\\":
        raise UsernameError(f"it begins with {form[0]}")


def name_key(name: str) -> str:
    """Return the same key for all spellings of a name: names are unique by this key.

    It ignores case and invisible characters such as variation selectors. Use it only for text as
    short as a name: NFKC takes quadratic time for combining marks.
    """
    if name.isascii():
        return name.lower()
    visible = unicodedata.normalize("NFKC", name.translate(_INVISIBLE))
    return unicodedata.normalize("NFKC", visible.casefold())
