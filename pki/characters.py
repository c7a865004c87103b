"""Which characters a name may hold that this CA certifies: those that people can see.

Two names that look the same are two people in a register and one on a screen, so nothing goes into
a certificate that is not seen where it stands, or that changes how what is around it is seen.
Letters of different scripts that look alike are another matter, for those who know the register.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Final

from infra.errors import Rejected

_ASCII: Final = re.compile(r"[!-~](?:[ -~]*[!-~])?")

# Default_Ignorable_Code_Point of DerivedCoreProperties.txt, Unicode 14.0 (UAX #44), which
# unicodedata lacks: what is drawn as nothing. ZERO WIDTH NON-JOINER and JOINER, U+200C and U+200D,
# are looked at where they stand.
_IGNORABLE: Final = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b\u200e\u200f\u202a-\u202e"
    "\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufff8\U0001bca0-\U0001bca3"
    "\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)
# Drawn as nothing, and not ignorable by that property; and what stands for what was lost.
_BLANK: Final = frozenset("\u2800\U0001d159\U00016fe4\U00013441\U00013442\ufffc\ufffd")
_SPACES: Final = frozenset(" \u00a0\u202f\u3000")  # NNBSP: French, Mongolian; the last: Japanese
_CATEGORIES: Final = frozenset({"Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp"})
_MARKS: Final = frozenset({"Mn", "Mc", "Me"})
_ZWNJ: Final = "\u200c"
_JOINERS: Final = frozenset({_ZWNJ, "\u200d"})
_VIRAMA: Final = 9  # canonical combining class


def check_text(what: str, value: str) -> None:
    """Refuse what nobody sees, and what is not seen as it is written.

    ``what``: how the error names it. Errors: ``bad-character``, for categories Cc, Cf, Cn, Co, Cs,
    Zl and Zp of Unicode, what is default ignorable, joiners where no script needs them, a mark or
    space at the beginning and a space at the end (names compare equal without it, RFC 4518 §2.6.1),
    and for a text in which nothing can be seen.
    """
    if _ASCII.fullmatch(value):
        return
    if value != value.strip():
        raise _bad(what, "begins or ends with a space; leave it out (RFC 4518 §2.6.1)")
    for place, character in enumerate(value):
        if character in _JOINERS:
            if not _joins(value, place):
                raise _bad(what, f"holds {_named(character)} where it joins nothing; leave it out")
        elif _is_bad(character):
            raise _bad(what, f"holds {_named(character)}, which is not allowed in a name")
    if value and unicodedata.category(value[0]) in _MARKS:
        raise _bad(what, f"begins with {_named(value[0])}, which belongs to a letter before it")
    if not value:
        raise _bad(what, "is empty")


def _is_bad(character: str) -> bool:
    category = unicodedata.category(character)
    if category == "Cn" and _is_ideograph(ord(character)):
        return False
    return (
        category in _CATEGORIES
        or (category == "Zs" and character not in _SPACES)
        or character in _BLANK
        or _IGNORABLE.match(character) is not None
    )


def _is_ideograph(code: int) -> bool:
    """Whether it is in planes 2 and 3, which are for ideographs alone (Unicode §2.8): names are
    written with those that were added after Python's table was made."""
    return 0x20000 <= code <= 0x3FFFF and code & 0xFFFE != 0xFFFE


def _joins(value: str, place: int) -> bool:
    """Whether a joiner changes what is seen, so that names are written with it.

    RFC 5892 §A.1 and §A.2: after a virama; a ZWNJ between two letters of a script whose letters
    join, which is all that unicodedata tells from others. And a ZWJ before a virama, as Bengali and
    Kannada have it (The Unicode Standard §12.2, §12.8).
    """
    before, after = value[:place], value[place + 1 :]
    if before and unicodedata.combining(before[-1]) == _VIRAMA:
        return True
    if value[place] == _ZWNJ:
        return _is_joining(before[::-1]) and _is_joining(after)
    return bool(before and after) and (
        unicodedata.category(before[-1]) == "Lo" and unicodedata.combining(after[0]) == _VIRAMA
    )


def _is_joining(text: str) -> bool:
    """Whether the first letter, marks on it left out, is one of Arabic, Syriac and their like."""
    first = next((each for each in text if unicodedata.category(each) != "Mn"), "")
    return bool(first) and unicodedata.bidirectional(first) == "AL"


def _named(character: str) -> str:
    return f"U+{ord(character):04X}"


def _bad(what: str, why: str) -> Rejected:
    return Rejected("bad-character", f"{what} {why}")
