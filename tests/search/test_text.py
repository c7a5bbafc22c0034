"""Tokens, payload text, queries and highlights."""

from __future__ import annotations

import html
import json
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from plugins.search.fts5_body import packed, unpacked
from plugins.search.terms import MAX_TERMS, Term, highlight, matches, near, parse, typos_allowed
from plugins.search.text import BREAK, MAX_TOKENS, MAX_WORD, cut, fold, payload_text, scrub, solitary, spans, tokens

WRITTEN = st.text(
    st.one_of(
        st.characters(exclude_categories=["Cs"]),
        st.sampled_from("会议手机ガがｶﾞ각ᄀ\u1161\u11a8ส\u0e31éẹ\u0301\u0323\u3099🎉\u200d\ufe0f ，。_-.aZ9ß\ue000"),
    ),
    max_size=40,
)


def shown(token: str) -> str:
    """A token with its symbols where they belong."""
    return "".join(
        chr(ord(c) - 0x100000) if c >= "\U00100000" else chr(ord(c) - 0xE0000) if c >= "\U000f0000" else c for c in token
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Hello, World", "hello world"),
        ("foo_bar a-b", "foo bar a b"),
        ("CAFÉ Zürich", "cafe zurich"),
        ("cafe\u0301", "cafe"),
        ("Straße ﬁn ½ ①", "strasse fin 1 2 1"),
        ("ＡＢＣ１２", "abc12"),
        ("Москва́ ЙОЖ", "москва иож"),
        ("明天会议", "明 天 会 议"),
        ("会，议", f"会 {BREAK} 议"),
        ("会 a 议", "会 a 议"),
        ("iPhone15手机", "iphone15 手 机"),
        ("ｶﾞ", "ガ"),
        ("か\u3099", "が"),
        ("회의는 시작", f"회 의 는 {BREAK} 시 작"),
        ("\u1112\u116c\u110b\u1174", "회 의"),
        ("दुनिया", "दुनिया"),
        ("👨‍👩‍👧 x", "👨 👩 👧 x"),
        ("🎉 🎉🎉 a 🎉", f"🎉 {BREAK} 🎉 🎉 a 🎉"),
        ("❤️ ❤", f"❤ {BREAK} ❤"),
        ("👍🏽", "👍 🏽"),
        ("🇩🇪🇺🇸 🇩", f"🇩🇪 🇺🇸 {BREAK} 🇩"),
        ("1️⃣ #️⃣ *️⃣ **b**", "1 \u20e3 # \u20e3 * \u20e3 b"),
        ("C++ C# R&D a=b", "c ++ c # r & d a = b"),
        ("会+议 ¥5 5€ 5％ #a @b", f"会 + 议 {BREAK} ¥ 5 5 € 5 % # a @ b"),
        ("≠ = =\u0338 ≮", f"≠ = ≠ {BREAK} ≮"),
        ("A™ ℹ️ ‼ ㊗ 🈁 ㎏", f"a ™ {BREAK} ℹ {BREAK} ‼ {BREAK} ㊗ {BREAK} 🈁 kg"),
        ("¯\\_(ツ)_/¯ ░ ⠓⠑ 𝄞", f"ツ {BREAK} ░ {BREAK} ⠓ ⠑ {BREAK} 𝄞"),
        ("葛\U000e0100城", "葛 城"),
        ("\u2066so\u2069ft", "soft"),
        ("*a* `b` ~c~ d|e", "a b c d e"),
        ("so\u00adft zero\u200bwidth", "soft zerowidth"),
        (f"a{BREAK}b 会{BREAK}议", f"a b 会 {BREAK} 议"),
        ("", ""),
        ("?!", ""),
    ],
)
def test_tokens(text: str, expected: str) -> None:
    assert [shown(token) for token in tokens(text)] == expected.split()


# A symbol of every kind that people type, and code points that nobody has given a meaning yet.
SYMBOLS = (
    "⭐⏰⌚⌛⏳⏩⏸▶◀⬛⬜⬆⬇⭕↩⤴‼⁉〰〽©®™ℹⓂ✅➡❤👍😀🚀㊗㊙🈁🈚🅰🀄🃏🏴♀♂⚧✈☎☮♻☯"
    "€£¥₿¢₹→←↔⇒⟹±×÷≈≠≤≥∞∑∏∫√∂∆∈∉∀∃∅∩∪⊂⊄⌘⌥⏎§¶†‡‰※°№✓✗★☆♥♠♪♫♯𝄞𝄢─│┌█▓░▲●◯◆⠿⠓☰䷀"
    "\U0001f8ff\U0001fac9\U0001faff\U0001fbff\u05ff\uf8ff\U00050000\U000effff"
)


@pytest.mark.parametrize("symbol", SYMBOLS)
def test_a_symbol_is_found_and_nothing_else(symbol: str) -> None:
    (term,) = parse(symbol)
    assert matches(f"note {symbol} number 7", [term]) == [(5, 6)]
    assert matches(f"so{symbol}joined", [term]) == [(2, 3)]
    assert matches(f"开{symbol}会", [term]) == [(1, 2)]
    assert matches(f"no {SYMBOLS.replace(symbol, '')} number 7 m i tm c", [term]) == []


ENGLAND, SCOTLAND = ("🏴" + "".join(chr(0xE0000 + ord(c)) for c in code) + "\U000e007f" for code in ("gbeng", "gbsct"))
PARTS = f"👍 🏽 👍🏿 👨 👩 👧 👩‍👨‍👧 🏳️ 🌈 🏴 {SCOTLAND} 🇩🇪🇺🇸 🇪 🇺 1 #1 # * ❤️ 🔥 2️⃣ ♡"


@pytest.mark.parametrize("emoji", ["👍🏽", "👨‍👩‍👧", "🏳️‍🌈", ENGLAND, "🇪🇺", "1️⃣", "#️⃣", "*️⃣", "❤️‍🔥", "♥️"])
def test_an_emoji_of_several_symbols_is_found_and_no_part_of_another(emoji: str) -> None:
    terms = parse(emoji)
    assert matches(f"note {emoji} number", terms) == [(5, 5 + len(emoji.rstrip("\ufe0f")))]
    assert matches(PARTS, terms) == []


@given(WRITTEN)
@example("会\u0301议")
@example("가\u11a8")
@example("\u3099あ")
@example("İstanbul ﷺ")
def test_spans_are_the_tokens_in_their_places(text: str) -> None:
    placed = list(spans(text))
    assert [span.token for span in placed] == tokens(text)
    assert all(0 <= span.start <= span.end <= len(text) for span in placed)
    assert [span.start for span in placed] == sorted(span.start for span in placed)


@given(WRITTEN)
def test_folding_again_changes_no_token(text: str) -> None:
    found = [token for token in tokens(text) if token != BREAK]
    assert all(tokens(token) == [token] or len(token) == MAX_WORD for token in found)
    assert not any('"' in token or " " in token for token in found)


@given(st.text(st.sampled_from("会议题 ，。aé3\n"), max_size=12), st.text(st.sampled_from("会议题"), min_size=1, max_size=3))
def test_a_phrase_of_characters_is_a_substring(text: str, word: str) -> None:
    joined = f" {' '.join(tokens(text))} "
    assert (f" {' '.join(tokens(word))} " in joined) == (word in text)


_WORDS_OF_FTS5 = re.compile(r"[A-Za-z0-9\x80-\U0010ffff]+")
"""As its tokeniser "ascii" finds them."""


def cut_alike(text: str) -> None:
    """A text cut for the index has the tokens that `spans` finds one by one, in either form."""
    expected = [span.token for span in spans(text)]
    spaced, parts = cut(text)
    assert _WORDS_OF_FTS5.findall(spaced) == expected
    assert unpacked(packed(parts)) == " ".join(expected)


@given(
    st.text(
        st.one_of(st.characters(exclude_categories=["Cs"]), st.sampled_from("会议aé+#*\u20e3🇩🇪 ，_\ue000\x00\x01\x03\x1f\n")),
        max_size=20,
    )
)
@example("会+议 + 会")
@example("a" * 65 + "议" * 70)
@example("é" * 65)
@example("C++ a")
@example("1\ufe0f\u20e3 🇩🇪🇩")
def test_a_text_is_cut_at_once_as_it_is_token_by_token(text: str) -> None:
    cut_alike(text)


def test_every_character_is_cut_as_it_is_alone() -> None:
    for code in (*range(0x3100), *range(0xA000, 0xAC10), *range(0xF900, 0x10000), *range(0x1F000, 0x1FB00)):
        cut_alike(f"会{chr(code)}议a{chr(code)}b {chr(code)}{chr(code)} +{chr(code)}+")


def test_bounds_of_tokens() -> None:
    assert cut("会" * (MAX_TOKENS + 10))[0].count("会") == MAX_TOKENS
    assert unpacked(packed(cut("a " * (MAX_TOKENS + 10))[1])) == " ".join("a" * MAX_TOKENS)
    assert len(tokens("a " * (MAX_TOKENS + 10))) == MAX_TOKENS
    assert tokens("x" * 100) == ["x" * MAX_WORD]
    assert fold("ABC") == "abc"
    assert solitary("会")
    assert solitary(BREAK)
    assert not solitary("a")


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        (b"plain text", "plain text"),
        ("会议".encode(), "会议"),
        (b"\xff\xfe", ""),
        (b"a\0b", ""),
        (b"", ""),
        (b"23.5", "23.5"),
        (b'{"a": "one", "b": ["two", {"c": "three"}], "d": 4, "e": null, "f": true}', "one\ntwo\nthree"),
        (b' ["x", ["y"]]', "x\ny"),
        (b'"quoted"', "quoted"),
        (b'{"n": 1e999, "m": NaN, "k": 123456789012345678901234567890}', ""),
        (b'{"broken": ', '{"broken": '),
        (b"[1, 2, 3]", ""),
        (b'{"s": "\\ud83c\\udf89 \\ud800"}', "🎉 \ufffd"),
        (b"[" * 100_000, "[" * 100_000),
        (b'{"n": ' + b"1" * 10_000 + b"}", ""),
    ],
    ids=range(15),
)
def test_what_a_payload_says(payload: bytes, expected: str) -> None:
    assert payload_text(payload) == expected


@given(
    st.recursive(
        st.one_of(st.none(), st.integers(), st.text()), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
    )
)
def test_any_json_is_read(value: object) -> None:
    text = payload_text(json.dumps({"v": value}).encode())
    text.encode()


def test_parsing_a_query() -> None:
    assert parse("hello wor") == [Term(("hello",), False, 1), Term(("wor",), True, 0)]
    assert parse("hello ") == [Term(("hello",), False, 1)]
    assert parse('"a b" c ') == [Term(("a", "b")), Term(("c",))]
    assert parse("明天 会议") == [Term(("明", "天")), Term(("会", "议"))]
    assert parse("三点，别") == [Term(("三", "点")), Term(("别",))]
    assert parse('"三点，别"') == [Term(("三", "点", BREAK, "别"))]
    assert parse("iphone手机") == [Term(("iphone", "手", "机"))]
    assert parse("微信pay") == [Term(("微", "信", "pay"), True)]
    assert parse("a.b ") == [Term(("a", "b"))]
    assert parse("AB-1234") == [Term(("ab", "1234"), True)]
    assert parse("foo_bar x/y/z") == [Term(("foo", "bar")), Term(("x", "y", "z"), True)]
    assert parse("can't") == parse("can’t ") == [Term(("can", "t"))]
    assert parse("l'homme") == [Term(("l", "homme"), True)]
    assert parse("same same same ") == [Term(("same",))]
    assert parse("!?") == parse("") == parse('""') == []
    assert len(parse(" ".join(f"w{n}" for n in range(50)))) == MAX_TERMS
    assert parse("\ud800") == []


def test_typos() -> None:
    assert [typos_allowed(word) for word in ("abcd", "abcde", "abcdefgh", "abcdefghi", "abcd5", "12345")] == [0, 1, 1, 2, 0, 0]
    assert near("meeting", "meeitng", 1)
    assert near("meeting", "meting", 1)
    assert near("meeting", "meetings", 1)
    assert near("meeting", "meering", 1)
    assert not near("meeting", "mering", 1)
    assert near("meeting", "mering", 2)
    assert not near("ab", "abcd", 1)


def _brute_near(one: str, other: str) -> int:
    """Optimal string alignment by definition."""
    if not one or not other:
        return len(one) + len(other)
    best = min(
        _brute_near(one[1:], other) + 1, _brute_near(one, other[1:]) + 1, _brute_near(one[1:], other[1:]) + (one[0] != other[0])
    )
    if len(one) > 1 and len(other) > 1 and one[0] == other[1] and one[1] == other[0]:
        best = min(best, _brute_near(one[2:], other[2:]) + 1)
    return best


@given(st.text("abc", max_size=5), st.text("abc", max_size=5), st.integers(0, 3))
def test_near_is_the_distance_by_definition(one: str, other: str, typos: int) -> None:
    assert near(one, other, typos) == (_brute_near(one, other) <= typos)


@pytest.mark.parametrize(
    ("text", "q", "expected"),
    [
        ("See the Meeting room", "meeting ", "See the <mark>Meeting</mark> room"),
        ("meetings", "meet", "<mark>meetings</mark>"),
        ("meetings", "meet ", "meetings"),
        ("the meetimg", "meeting ", "the <mark>meetimg</mark>"),
        ("a meeting, a meetimg", "meeting ", "a <mark>meeting</mark>, a meetimg"),
        ("明天下午开会议吧", "会议", "明天下午开<mark>会议</mark>吧"),
        ("开会，议程", "会议", "开会，议程"),
        ("开会，议程", '"会，议"', "开<mark>会，议</mark>程"),
        ("<b>bold</b> & 'x'", "bold ", "&lt;b&gt;<mark>bold</mark>&lt;/b&gt; &amp; &#x27;x&#x27;"),
        ("</mark><mark>x", "mark ", "&lt;/<mark>mark</mark>&gt;&lt;<mark>mark</mark>&gt;x"),
        ("CAFÉ re\u0301sume\u0301", "café resume ", "<mark>CAFÉ</mark> <mark>re\u0301sume\u0301</mark>"),
        ("ﾃｽﾄです", "テスト", "<mark>ﾃｽﾄ</mark>です"),
        ("aba", "b ", "aba"),
        ("new york new", '"new york"', "<mark>new york</mark> new"),
        ("AB 1234, AB of 1234, ab_12345", "AB-1234", "<mark>AB 1234</mark>, AB of 1234, <mark>ab_12345</mark>"),
        ("C++ and C", "c++", "<mark>C++</mark> and C"),
        ("up ⬆️ here", "⬆", "up <mark>⬆</mark>️ here"),
        ("会会会", "会会", "<mark>会会会</mark>"),
        ("nothing here", "", "nothing here"),
        ("", "x", ""),
    ],
)
def test_highlights(text: str, q: str, expected: str) -> None:
    assert highlight(text, parse(q)) == expected


def test_a_long_text_is_cut_around_its_match() -> None:
    text = "word " * 200 + "needle " + "tail " * 200
    shown = highlight(text, parse("needle "))
    assert "<mark>needle</mark>" in shown
    assert shown.startswith("…")
    assert shown.endswith("…")
    assert len(re.sub("</?mark>", "", shown)) <= 242
    assert highlight("x" * 5000, parse("nope")).endswith("…")


@given(WRITTEN, WRITTEN)
def test_a_highlight_is_the_text_escaped_and_marked(text: str, q: str) -> None:
    shown = highlight(text, parse(q))
    assert html.unescape(re.sub("</?mark>", "", shown)) == text
    assert (
        shown.count("<mark>")
        == shown.count("</mark>")
        == len([place for place in matches(text, parse(q)) if place[0] < place[1]])
    )
    assert "<" not in re.sub("</?mark>", "", shown)


def test_lone_surrogates_are_replaced() -> None:
    assert scrub("ok") == "ok"
    assert scrub("a\ud800b") == "a\ufffdb"
    assert scrub("\ud83c\udf89") == "🎉"
