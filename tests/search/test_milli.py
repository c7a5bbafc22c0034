"""Whether Meilisearch's own core reads ``grams`` as we mean them: ``milli`` 1.8.1, an old build of it, where it is installed.

Its phrases are exact for two tokens. Longer ones it checks pair by pair, so that a text with every pair, here and there, is
found too; on natural text that is rare.
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from plugins.search.meili_text import grams, query_text
from plugins.search.terms import parse
from tests.search.test_brute_force import JOINTS, LETTERS
from tests.search.test_text import SYMBOLS

milli = pytest.importorskip("milli", reason="milli is not installed (no wheel for this python)")

_SHOWN = 20
"""Hits that the old core gives at most."""


def test_chinese_words_are_found_exactly_where_they_are(tmp_path: Path) -> None:
    rng = random.Random(11)
    texts = ["".join(rng.choice(LETTERS) + rng.choice(JOINTS) for _ in range(rng.randint(2, 9))) for _ in range(80)]
    texts += ["明天下午三点开会议", "待处理", "处，理", "iPhone15手机 meeting", "東京タワー", "회의는 내일", "会，议"]
    index = milli.Index(str(tmp_path))
    index.add_documents([{"id": number, "grams": grams(text)} for number, text in enumerate(texts)])
    queries = {"".join(rng.choices(LETTERS, k=2)) for _ in range(150)}
    compared = 0
    for q in sorted(queries | {"处理", "会议", "手机", "タワー", "회의", "내일"}):
        expected = {number for number, text in enumerate(texts) if q in text}
        if len(expected) < _SHOWN:
            assert set(index.search(query_text(parse(q)))) == expected, q
            compared += 1
    assert compared > 40


@pytest.mark.parametrize(
    ("q", "found"),
    [("meet", {0}), ("meet ", set()), ("meetimg ", {0}), ('"room meeting"', set()), ("iphone15手机", {1}), ("手机 iph", {1})],
)
def test_words_prefixes_typos_and_phrases(tmp_path: Path, q: str, found: set[int]) -> None:
    index = milli.Index(str(tmp_path))
    index.add_documents([{"id": 0, "grams": grams("The meeting room")}, {"id": 1, "grams": grams("我的iPhone15手机")}])
    assert set(index.search(query_text(parse(q)))) == found


def test_symbols_are_words(tmp_path: Path) -> None:
    index = milli.Index(str(tmp_path))
    symbols = SYMBOLS + "#$%&+<=>@^"
    index.add_documents([{"id": number, "grams": grams(f"note {symbol} here")} for number, symbol in enumerate(symbols)])
    found = {symbol: index.search(query_text(parse(f"{symbol} "))) for symbol in symbols}
    assert found == {symbol: [number] for number, symbol in enumerate(symbols)}
