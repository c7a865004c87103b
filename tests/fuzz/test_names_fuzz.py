"""Names that anybody may ask for: each is let in or refused, and nothing else happens."""

from __future__ import annotations

import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from infra.errors import Rejected
from pki.characters import check_text
from pki.general_name import GeneralNameKind, general_name
from pki.host_name import check_host_name
from pki.names import MAXIMUM_SIZE

JOINED = "علی\u0650\u200c\u200dक\u094dর\u09cdA \u00a0\u0301\ud800\U0003fffe"
labels = st.one_of(
    st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9-]{0,60}[A-Za-z0-9])?", fullmatch=True),
    st.from_regex(r"[xX][nN]--[A-Za-z0-9-]{0,58}[A-Za-z0-9]", fullmatch=True),
    st.from_regex(r"0?x?[0-9a-f]{1,8}", fullmatch=True),
)


@given(
    st.one_of(
        st.text(),
        st.text(st.characters(codec=None)),
        st.text(st.sampled_from(JOINED)),
        st.text(st.sampled_from(JOINED), min_size=1000, max_size=MAXIMUM_SIZE),
    )
)
def test_a_text_is_let_in_only_if_something_of_it_is_seen(text: str) -> None:
    try:
        check_text("CN", text)
    except Rejected:
        return
    assert unicodedata.category(text[0])[0] in "LNPS" or ord(text[0]) >> 16 in (2, 3)
    assert text == text.strip()
    text.encode()


@given(st.lists(labels, min_size=1, max_size=4))
def test_a_host_name_is_let_in_or_refused(parts: list[str]) -> None:
    try:
        name = general_name(GeneralNameKind.dns, ".".join(parts)).value
        check_host_name(name)
    except Rejected:
        return
    assert not parts[-1].isdigit()
