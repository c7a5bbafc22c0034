"""Messages and questions, and what must be found. Data, for every engine."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from plugins.search.engine import Document
from plugins.search.text import payload_text

START = 1_750_000_000_000


@dataclass(frozen=True)
class Told:
    """A message of the corpus: its number is its message id, and its time in seconds after `START`."""

    number: int
    topic: str
    sender: str
    payload: bytes


def _told(*rows: tuple[str, str, str | bytes]) -> list[Told]:
    return [
        Told(number, topic, sender, payload.encode() if isinstance(payload, str) else payload)
        for number, (topic, sender, payload) in enumerate(rows, 1)
    ]


MESSAGES = _told(
    ("chat/lab", "u/ann", "Shall we move the Meeting to Monday?"),  # 1
    ("chat/lab", "u/bob", "the meetingplaces are cancelled"),  # 2
    ("chat/lab", "u/ann", "Monday it is, see you in the meeting room"),  # 3
    ("chat/ops", "u/bob", "deployment finished: version 2.10.3 on edge-server-7"),  # 4
    ("chat/ops", "u/cat", "roll back the deployment"),  # 5
    ("chat/中文", "u/李", "明天下午三点开会议，别迟到"),  # 6
    ("chat/中文", "u/王", "这个问题待处理，议题见附件"),  # 7
    ("chat/中文", "u/李", "开会，议程已经发了"),  # 8: 会 and 议, but no 会议
    ("chat/中文", "u/王", "会"),  # 9
    ("chat/中文", "u/王", "我在用iPhone15手机"),  # 10
    ("chat/日本", "u/sato", "東京タワーへ行きました"),  # 11
    ("chat/日本", "u/sato", "ﾃｽﾄ です"),  # 12: half width
    ("chat/日本", "u/sato", "がっこう"),  # 13
    ("chat/한국", "u/kim", "회의는 내일 시작합니다"),  # 14
    ("chat/한국", "u/kim", "회사 의자"),  # 15: 회 and 의, but no 회의
    ("chat/cafe", "u/zoë", "Café crème in Zürich, STRASSE and straße"),  # 16
    ("chat/cafe", "u/zoë", "ΑΘΗΝΑ and Москва, naïve façade"),  # 17
    (
        "iot/7/state",
        "c/sensor",
        '{"status": "Overheated Compressor", "level": 73, "notes": ["заменить", {"by": "mechanic"}]}',
    ),  # 18
    ("iot/8/state", "c/sensor", b"\x00\xffmeeting\xfe"),  # 19: binary
    ("iot/8/state", "c/sensor", "<b>bold</b> & <script>alert('compressor')</script>"),  # 20
    ("chat/lab", "u/cat", "environment notes for the accommodation"),  # 21
    ("chat/ops", "u/bob", "write to ann.lee@example.com about foo_bar"),  # 22
    ("chat/lab", "u/dan", "party 🎉 tonight 👍🏽"),  # 23
    ("chat/lab", "u/dan", "room meeting"),  # 24: both words, apart the other way round
    ("chat/ไทย", "u/nok", "สวัสดีครับ"),  # 25
    ("$SYS/broker/log", "c/", "meeting of the system"),  # 26
    ("chat/hindi", "u/raj", "नमस्ते दुनिया"),  # 27
    ("chat/accents", "u/eve", "re\u0301sume\u0301 sent"),  # 28: spelt with combining marks
    ("chat/lab/sub", "u/ann", "submeeting tomorrow 会议"),  # 29
    ("home/kitchen/temp", "c/sensor", "21.5"),  # 30: a number and nothing else
    ("home/kitchen/temp", "c/sensor", "-7"),  # 31
    ("home/kitchen/temp", "c/sensor", "8"),  # 32
    ("home/kitchen/temp", "c/sensor", '"48.2"'),  # 33: a JSON string
    ("home/kitchen/temp", "c/sensor", '{"value": 48.2, "unit": "celsius"}'),  # 34
    ("shop/orders", "u/eve", "order AB-1234 was sent to kay@sample.net on 2026-11-28"),  # 35
    ("shop/orders", "u/eve", "AB has 99 of 1234; kay wrote at 11:28 in 2026, from sample to net"),  # 36
    ("shop/orders", "u/eve", "192.168.0.1 cannot: can't reach a/b/c"),  # 37
    ("shop/orders", "u/eve", "c/b/a can take 1.0.168.192, a to b to c"),  # 38
    ("code", "u/lin", "C++ and .NET, or C# with R&D for #tideline"),  # 39
    ("code", "u/lin", "C has no plus; vitamin C, tideline, networks, R and D"),  # 40
    ("code", "u/lin", "ask @tideline: a>=b → 50% of €20 ≠ $20, ½ ≤ §5™"),  # 41
    ("code", "u/lin", "ask tideline: a=b, 50 of 20 = 5"),  # 42
    ("emoji", "u/mo", "⭐ ok 👍 ok 🇩🇪🇺🇸 ok 1️⃣ ok 👨‍👩‍👧 ok ❤️"),  # 43
    ("emoji", "u/mo", "© ok 👍🏽 ok 🇪🇺 ok 2️⃣ 1 ok 👨👩 ok 👧 ok (╯°□°)╯"),  # 44
)


def documents() -> list[Document]:
    """The corpus as the indexer would make it."""
    heads: dict[str, int] = {}
    made = []
    for told in MESSAGES:
        seq = heads[told.topic] = heads.get(told.topic, 0) + 1
        text = payload_text(told.payload)
        if text:
            made.append(Document(told.number, told.topic, seq, told.sender, "phone", START + told.number * 1000, text))
    return made


@dataclass(frozen=True)
class Case:
    """A question and the numbers that answer it: a set, or a list where the order is promised."""

    name: str
    answer: set[int] | list[int]
    query: dict[str, Any] = field(default_factory=dict)


def at(number: int) -> int:
    """The time of a message."""
    return START + number * 1000


CASES = [
    # words
    Case("a word", {1, 3, 24, 26}, {"q": "meeting "}),
    Case("upper case", {1, 3, 24, 26}, {"q": "MEETING "}),
    Case("all words, in any order", {3, 24}, {"q": "room meeting "}),
    Case("a word that no message has", set(), {"q": "giraffe "}),
    Case("no letter or digit at all", set(), {"q": "?! ..."}),
    Case("a word with an accent, typed without", {16}, {"q": "creme "}),
    Case("a word without, typed with", {1, 3, 24, 26}, {"q": "méeting "}),
    Case("sharp s", {16}, {"q": "straße "}),
    Case("Greek in another case", {17}, {"q": "αθηνα "}),
    Case("Cyrillic", {17}, {"q": "МОСКВА "}),
    Case("combining marks", {28}, {"q": "Résumé "}),
    Case("vowel signs", {27}, {"q": "दुनिया "}),
    Case("full width", {1, 3, 24, 26}, {"q": "ｍｅｅｔｉｎｇ "}),
    Case("an e-mail address", {22}, {"q": "ann.lee@example.com "}),
    Case("a part of it", {22}, {"q": "example "}),
    Case("an underscore", {22}, {"q": "foo_bar"}),
    Case("a version number", {4}, {"q": "2.10.3 "}),
    Case("an emoji", {23, 43, 44}, {"q": "👍"}),
    # joined
    Case("letters and digits", {35}, {"q": "AB-1234 "}),
    Case("the last part is a prefix", {35}, {"q": "ab-12"}),
    Case("unless a space follows", set(), {"q": "ab-12 "}),
    Case("as its parts they are words", {35, 36}, {"q": "ab 1234 "}),
    Case("an address", {35}, {"q": "kay@sample.net"}),
    Case("the beginning of one", {35}, {"q": "kay@sam"}),
    Case("a date", {35}, {"q": "2026-11-28"}),
    Case("the beginning of a date", {35}, {"q": "2026-11"}),
    Case("an IP address", {37}, {"q": "192.168.0.1 "}),
    Case("the beginning of an IP address", {37}, {"q": "192.168"}),
    Case("a contraction is no prefix", {37}, {"q": "can't"}),
    Case("with another apostrophe", {37}, {"q": "CAN’T "}),
    Case("a path", {37}, {"q": "a/b/c"}),
    Case("the end of a path", {37}, {"q": "b/c"}),
    Case("no typo in what is joined", set(), {"q": "kay@sampel.net"}),
    Case("nor where it ends", set(), {"q": "kay@sampel"}),
    Case("nor in the last part of a word with symbols", set(), {"q": "#tidelinr"}),
    Case("two joined words", {35}, {"q": "ab-1234 2026-1"}),
    # symbols
    Case("C++", {39}, {"q": "C++"}),
    Case("C#", {39}, {"q": "c# "}),
    Case("a dot in front is none", {35, 36, 39}, {"q": ".NET "}),
    Case("an and sign", {39}, {"q": "r&d"}),
    Case("a hashtag", {39}, {"q": "#tideline"}),
    Case("a mention", {41}, {"q": "@tide"}),
    Case("its word", {39, 40, 41, 42}, {"q": "tideline"}),
    Case("an arrow", {41}, {"q": "→"}),
    Case("a currency", {41}, {"q": "€20"}),
    Case("another one", {41}, {"q": "$20"}),
    Case("a percentage", {41}, {"q": "50% "}),
    Case("mathematics", {41}, {"q": "≤"}),
    Case("a struck symbol is another one", {41}, {"q": "≠"}),
    Case("and not what is struck", {42}, {"q": "= "}),
    Case("a paragraph", {41}, {"q": "§5"}),
    Case("a trademark", {41}, {"q": "™"}),
    Case("a copyright", {44}, {"q": "©"}),
    Case("a star", {43}, {"q": "⭐"}),
    Case("a heart without its variation", {43}, {"q": "❤"}),
    Case("a skin tone", {23, 44}, {"q": "👍🏽"}),
    Case("a flag", {44}, {"q": "🇪🇺"}),
    Case("two flags", {43}, {"q": "🇩🇪🇺🇸"}),
    Case("a keycap", {43}, {"q": "1️⃣"}),
    Case("a family", {43}, {"q": "👨‍👩‍👧"}),
    Case("a kaomoji", {44}, {"q": "(╯°□°)╯"}),
    Case("an emoji that nothing has", set(), {"q": "⏰"}),
    # prefixes
    Case("the last word is a prefix", {1, 2, 3, 24, 26}, {"q": "meeti"}),
    Case("only the last one", set(), {"q": "mond room "}),
    Case("after a whole word", {3, 24}, {"q": "meeting roo"}),
    Case("one letter", {16}, {"q": "z"}),
    Case("a space ends it", set(), {"q": "meeti mond "}),
    Case("inside a word that punctuation cuts", {22}, {"q": "ann.lee@exam"}),
    Case("not from the middle of a word", {29}, {"q": "submee"}),
    # typos
    Case("one typo", {1, 3, 24, 26}, {"q": "meetimg "}),
    Case("swapped letters", {1, 3, 24, 26}, {"q": "meeitng "}),
    Case("a missing letter", {4, 5}, {"q": "deploymnt "}),
    Case("two typos in a long word", {21}, {"q": "acommodatoin "}),
    Case("two typos in a short word", set(), {"q": "mxxting "}),
    Case("a typo in a short word", set(), {"q": "rxom "}),
    Case("no typos in numbers", set(), {"q": "iphone16 "}),
    Case("a typo beside an exact word", {5}, {"q": "back deploymemt "}),
    # phrases
    Case("a phrase", {3}, {"q": '"meeting room"'}),
    Case("its words the other way round", {24}, {"q": '"room meeting"'}),
    Case("curly quotes", {3}, {"q": "“meeting room”"}),
    Case("an open quote", {3}, {"q": '"meeting room'}),
    Case("a phrase and a word", {3}, {"q": '"meeting room" monday '}),
    Case("no typo in a phrase", set(), {"q": '"meetimg room"'}),
    Case("no prefix in a phrase", set(), {"q": '"meeting roo"'}),
    Case("across punctuation between words", {1}, {"q": '"to monday"'}),
    # Chinese, Japanese, Korean, Thai
    Case("two characters inside a longer run", {6, 29}, {"q": "会议"}),
    Case("one character", {6, 8, 9, 29}, {"q": "会"}),
    Case("a word inside a word", {7}, {"q": "处理"}),
    Case("two words", {6}, {"q": "明天 会议"}),
    Case("without a space they are one word", set(), {"q": "明天会议"}),
    Case("not across punctuation", set(), {"q": "会议程"}),
    Case("behind punctuation", {7}, {"q": "议题"}),
    Case("punctuation between two words of the query", {6}, {"q": "三点，别"}),
    Case("Chinese and Latin together", {10}, {"q": "iPhone15手机"}),
    Case("Latin beside Chinese", {10}, {"q": "iphone"}),
    Case("katakana", {11}, {"q": "タワー"}),
    Case("half width katakana", {12}, {"q": "テスト"}),
    Case("half width in the query", {11}, {"q": "ﾀﾜｰ"}),
    Case("a kanji word", {11}, {"q": "東京"}),
    Case("voicing marks count", set(), {"q": "かっこう"}),
    Case("a Korean word with a particle", {14}, {"q": "회의"}),
    Case("a Korean syllable", {14, 15}, {"q": "회"}),
    Case("Korean words", {14}, {"q": "회의는 시작"}),
    Case("a Korean phrase", {15}, {"q": '"회사 의자"'}),
    Case("inside Thai", {25}, {"q": "สวัสดี"}),
    # JSON and the rest
    Case("a JSON value", {18}, {"q": "overheated"}),
    Case("deep in JSON", {18}, {"q": "mechanic заменить "}),
    Case("not a JSON key", set(), {"q": "status "}),
    Case("not a JSON number", set(), {"q": "73 "}),
    Case("a number alone", {30}, {"q": "21.5"}),
    Case("and then a space", {30}, {"q": "21.5 "}),
    Case("its beginning", {30}, {"q": "21"}),
    Case("a sign is no part of it", {4, 31}, {"q": "-7"}),
    Case("one digit", {32}, {"q": "8"}),
    Case("a number as a JSON string, not one in an object", {33}, {"q": "48.2"}),
    Case("the text beside a number", {34}, {"q": "celsius "}),
    Case("markup is text", {20}, {"q": "script alert "}),
    # filters
    Case("a conversation", {1, 3, 24}, {"q": "meeting ", "conversations": {"chat/lab"}}),
    Case("two conversations", {1, 3, 24, 26}, {"q": "meeting ", "conversations": {"chat/lab", "$SYS/broker/log"}}),
    Case("a conversation that there isn't", set(), {"q": "meeting ", "conversations": {"chat/none"}}),
    Case("no conversation", set(), {"q": "meeting ", "conversations": set()}),
    Case("one level", {1, 3, 24}, {"q": "meeting ", "topic_filter": "chat/+"}),
    Case("any level", {6, 29}, {"q": "会议", "topic_filter": "chat/#"}),
    Case("below a level", {29}, {"q": "tomorrow ", "topic_filter": "chat/lab/#"}),
    Case("and the level itself", {1, 3, 24}, {"q": "meeting ", "topic_filter": "chat/lab/#"}),
    Case("wildcards don't see system topics", {1, 3, 24}, {"q": "meeting ", "topic_filter": "#"}),
    Case("named they are seen", {26}, {"q": "meeting ", "topic_filter": "$SYS/#"}),
    Case("in the middle", {18}, {"q": "compressor ", "topic_filter": "iot/+/state", "until": at(19)}),
    Case("a sender", {1, 3}, {"q": "meeting ", "sender": "u/ann"}),
    Case("a sender who said nothing of it", set(), {"q": "meeting ", "sender": "u/kim"}),
    Case("an unknown sender", set(), {"q": "meeting ", "sender": "u/nobody"}),
    Case("from a time on", {3, 24, 26}, {"q": "meeting ", "since": at(3)}),
    Case("before a time", {1}, {"q": "meeting ", "until": at(3)}),
    Case("a stretch of time", {3, 24}, {"q": "meeting ", "since": at(2), "until": at(25)}),
    Case(
        "everything at once",
        {3},
        {"q": "meeting ", "since": at(2), "sender": "u/ann", "conversations": ["chat/lab"], "topic_filter": "+/lab"},
    ),
    Case("filters alone", {1, 3, 29}, {"sender": "u/ann"}),
    Case("a conversation alone", {4, 5, 22}, {"conversations": ["chat/ops"]}),
    # order
    Case("newest first", [26, 24, 3, 1], {"q": "meeting ", "sort": "newest"}),
    Case("oldest first", [1, 3, 24, 26], {"q": "meeting ", "sort": "oldest"}),
    Case("newest first, filters alone", [22, 5, 4], {"conversations": ["chat/ops"], "sort": "newest"}),
    Case("without words relevance is newest first", [22, 5, 4], {"conversations": ["chat/ops"]}),
    Case("words together first", [24, 3], {"q": "room meeting "}),
]
