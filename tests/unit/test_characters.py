"""Characters in names: how the world writes itself goes in, what nobody sees does not."""

from __future__ import annotations

import re
import sys
import unicodedata

import pytest

from infra.errors import Rejected
from pki.characters import check_text

NAMES = {
    "Arabic": "محمد بن عبد الله",
    "Arabic with marks": "مُحَمَّد",
    "Persian with ZWNJ": "علی‌رضا",
    "Persian with ZWNJ after a letter that joins on one side": "امیر‌حسین",
    "Urdu": "محمد اقبالؔ",
    "Hindi": "श्रीमती इन्दिरा",
    "Hindi with ZWJ": "क्‍षेमेन्द्र",
    "Hindi with ZWNJ": "क्‌षमा",
    "Nepali eyelash ra": "गर्‍यो",
    "Sinhala with ZWJ": "ශ්‍රී ලංකා",
    "Malayalam with ZWJ": "അവന്‍",
    "Bengali ya-phalaa": "র‍্যাফেল",
    "Tamil": "சுப்பிரமணியன்",
    "Thai": "สมชาย ใจดี",
    "Khmer": "សុខ ចាន់ធូ",
    "Burmese": "အောင်ဆန်းစုကြည်",
    "Tibetan": "བསྟན་འཛིན་རྒྱ་མཚོ",
    "Chinese": "王小明",
    "Chinese of plane 2": "\U00020bb7野家 \U0002bbbd",
    "Chinese of plane 3": "\U00030edd\U00030ede麵",
    "Chinese of plane 3, added by Unicode 15": "王\U000323af",
    "Japanese with its own space": "山田\u3000太郎",
    "Korean": "김철수",
    "Vietnamese": "Nguyễn Thị Minh Khai",
    "Vietnamese with combining marks": unicodedata.normalize("NFD", "Nguyễn Thị Minh Khai"),
    "Hebrew": "דָּוִד בֶּן־גּוּרְיוֹן",
    "Yiddish": "שלום־עליכם",
    "apostrophe": "O'Brien",
    "typographic apostrophe": "D’Angelo",
    "Hawaiian okina": "Kaʻahumanu Keʻelikōlani",
    "Greek": "Νίκος Καζαντζάκης",
    "Cyrillic": "Володимир Їжакевич",
    "Georgian": "შოთა რუსთაველი",
    "Armenian": "Արամ Խաչատրյան",
    "Amharic": "ኃይለ ሥላሴ",
    "Cherokee": "ᏍᏏᏉᏯ",
    "Inuktitut": "ᐊᓈᓇ",
    "Turkish": "İsmail Şahin Iğdır",
    "Icelandic": "Þórður Æðarson",
    "Yoruba": "Ọláọlúwa Ṣọ́lá",
    "click letters": "ǃKora ǀXam",
    "Nko": "ߊߟߎ߫",
    "Adlam": "𞤀𞤣𞤤𞤢𞤥",
    "an organization": "Müller & Söhne “Zur Post” (Nr. 5) – 50 % №1 €",
    "French no-break spaces": "Société «\u00a0Le\u202fBon\u00a0»",
    "one letter": "Ó",
}


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES.keys())
def test_names_of_the_world_are_written_as_they_are(name: str) -> None:
    check_text("CN", name)


HIDDEN = (
    "\u061c\u180e\u034f\ufe0f\ufe00\u3164\u115f\u1160\uffa0\u2800\u00ad\u200b\u200e\u200f"
    "\u202a\u202e\u2060\u2064\u2066\u2069\u206a\u206f\ufeff\ufff9\ufffc\ufffd\u180b\u17b4"
    "\U0001d173\U0001d159\U0001bca0\U000e0001\U000e0041\U000e0100\u2028\u2029\x00\x1f\x7f\x85\t\n"
    "\ue000\U000f0000\U00100000\ufdd0\ufffe\uffff\U0001fffe\U0002ffff\U0003fffe\U0010ffff\ud800"
    "\udfff\u0378\U0001ffff\u0600\u06dd\u1680\u2003\u200a\u205f"
)


@pytest.mark.parametrize("character", HIDDEN, ids=lambda character: f"U+{ord(character):04X}")
def test_what_is_not_seen_is_refused_wherever_it_stands(character: str) -> None:
    for name in (f"Al{character}ice", f"{character}Alice", f"Alice{character}", character):
        with pytest.raises(Rejected) as refused:
            check_text("CN", name)
        assert refused.value.code == "bad-character"
        assert character not in refused.value.detail, "nor does the answer repeat it"


@pytest.mark.parametrize(
    "name",
    [
        "Al\u200cice",
        "Al\u200dice",
        "\u200cعلی",
        "علی\u200c",
        "ع\u200dلی",
        "ع\u200c\u200cلی",
        "क\u200dख",
        "क\u200cख",
        "Али\u200cса",
        "דו\u200cד",
        "王\u200d明",
        "\U0001f468\u200d\U0001f469",
        "\u200d",
    ],
    ids=ascii,
)
def test_joiners_go_where_a_script_needs_them_only(name: str) -> None:
    with pytest.raises(Rejected, match="joins nothing"):
        check_text("CN", name)


@pytest.mark.parametrize(
    "name",
    [
        "",
        " ",
        "  ",
        "\u00a0",
        "\u3000",
        " Alice",
        "Alice ",
        "\u00a0Alice",
        "Alice\u3000",
        "\t",
        "\n",
    ],
    ids=ascii,
)
def test_spaces_around_nothing_or_anything_are_refused(name: str) -> None:
    with pytest.raises(Rejected):
        check_text("CN", name)


@pytest.mark.parametrize("name", ["\u0301Alice", "\u0301", "\u20dd", "\u093e"], ids=ascii)
def test_a_mark_has_a_letter_before_it(name: str) -> None:
    with pytest.raises(Rejected, match="letter before"):
        check_text("CN", name)


def test_every_character_but_those_of_some_categories_is_decided_by_the_table() -> None:
    """What is let in of all of Unicode: letters, marks, digits, punctuation, symbols, four spaces;
    of what is unassigned, ideographs to come."""
    let_in = set()
    for code in range(sys.maxunicode + 1):
        try:
            check_text("CN", f"A{chr(code)}A")
        except Rejected:
            continue
        let_in.add(chr(code))
    categories = {unicodedata.category(character) for character in let_in}
    assert categories == {
        "Lu", "Ll", "Lt", "Lm", "Lo", "Mn", "Mc", "Me", "Nd", "Nl", "No",
        "Pc", "Pd", "Ps", "Pe", "Pi", "Pf", "Po", "Sm", "Sc", "Sk", "So", "Zs", "Cn",
    }  # fmt: skip
    unassigned = {ord(each) >> 16 for each in let_in if unicodedata.category(each) == "Cn"}
    assert unassigned <= {2, 3}
    letters = re.compile(r"[^\W\d_]")
    refused = {
        character
        for character in map(chr, range(sys.maxunicode + 1))
        if letters.match(character) and character not in let_in
    }
    assert {f"{ord(each):04X}" for each in refused} == {"115F", "1160", "3164", "FFA0"}
