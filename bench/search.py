"""What search costs: ``python -m bench.search [--messages 1000000] [--engine tantivy]``.

Fills the embedded engine, or tantivy, with made-up chat messages (half Chinese, 40% English, the rest mixed; words by Zipf's
law) of 20,000 conversations, and prints the index rate, the size on disk, and p50 and p99 of each kind of query, each asked
with many different words, through the engine as the HTTP API asks it: with totals and 20 hits.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from bench.table import columns
from broker.ids import EPOCH
from plugins.search.engine import Document, Engine, Query
from plugins.search.fts5 import Fts5Engine
from plugins.search.own_files import own_engine
from storage.memory import MemoryStorage

AIM = 50.0
"""Milliseconds that the 99th percentile of each kind of query should stay under."""

CONVERSATIONS = 20_000
SENDERS = 5_000
BEGINNING = 1_750_000_000_000

_SYLLABLES = [consonant + vowel for consonant in "bcdfghlmnprstv" for vowel in "aeio"]


class Corpus:
    """Endless messages, the same for the same seed."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        hanzi = [chr(0x4E00 + i * 7) for i in range(2500)]
        letters = self._zipf(len(hanzi))
        self.chinese = [
            "".join(self.random.choices(hanzi, cum_weights=letters, k=k)) for k in (1, 2, 2, 2, 2, 3, 4) for _ in range(2000)
        ]
        self.english = sorted(
            {"".join(self.random.choices(_SYLLABLES, k=k)) for k in (1, 2, 2, 3, 3, 4, 4, 5, 6) for _ in range(5000)}
        )
        self.random.shuffle(self.chinese)
        self.random.shuffle(self.english)
        self._chinese_weights = self._zipf(len(self.chinese))
        self._english_weights = self._zipf(len(self.english))
        self._conversation_weights = self._zipf(CONVERSATIONS)

    @staticmethod
    def _zipf(size: int) -> list[float]:
        return list(itertools.accumulate(1 / (rank + 10) for rank in range(size)))

    def text(self) -> str:
        kind = self.random.random()
        length = self.random.randint(3, 16)
        if kind < 0.5:
            words = self.random.choices(self.chinese, cum_weights=self._chinese_weights, k=length)
            return "".join(word + ("，" if self.random.random() < 0.15 else "") for word in words)
        words = self.random.choices(self.english, cum_weights=self._english_weights, k=length)
        if kind < 0.9:
            return " ".join(words)
        return " ".join([*words, *self.random.choices(self.chinese, cum_weights=self._chinese_weights, k=3)])

    def documents(self, count: int) -> Iterator[Document]:
        heads = [0] * CONVERSATIONS
        for number in range(1, count + 1):
            (conversation,) = self.random.choices(range(CONVERSATIONS), cum_weights=self._conversation_weights)
            heads[conversation] += 1
            sender = f"u/{self.random.randrange(SENDERS)}"
            at = BEGINNING + number * 20
            id, topic = (at - EPOCH) << 22, f"chat/{conversation % 50}/{conversation}"
            yield Document(id, topic, heads[conversation], sender, "phone", at, self.text())


def _misspelt(word: str, rng: random.Random) -> str:
    at = rng.randrange(1, len(word) - 1)
    return word[:at] + rng.choice("xyzqw") + word[at + 1 :]


def kinds(corpus: Corpus, messages: int) -> dict[str, Callable[[], Query]]:
    """Per kind of query, what makes the next one."""
    rng = random.Random(7)
    two = [word for word in corpus.chinese if len(word) == 2]
    long = [word for word in corpus.english[:8000] if len(word) >= 7]
    middle = BEGINNING + messages * 10
    mine = {f"chat/{number % 50}/{number}" for number in rng.sample(range(CONVERSATIONS), 1000)}

    def english() -> str:
        return rng.choice(corpus.english[:3000])

    def pair() -> str:
        return f"{rng.choice(corpus.english[:100])} {rng.choice(corpus.english[:100])}"

    return {
        "two Chinese characters": lambda: Query(q=rng.choice(two[:3000])),
        "two Chinese, newest first": lambda: Query(q=rng.choice(two[:3000]), sort="newest"),
        "one Chinese character": lambda: Query(q=rng.choice(two)[0], sort="newest"),
        "word, by relevance": lambda: Query(q=english() + " "),
        "word, newest first": lambda: Query(q=english() + " ", sort="newest"),
        "one of the 20 most common words": lambda: Query(q=rng.choice(corpus.english[:20]) + " "),
        "two words": lambda: Query(q=pair() + " "),
        "prefix": lambda: Query(q=english()[:4]),
        "prefix of one letter": lambda: Query(q=english()[:1]),
        "typo": lambda: Query(q=_misspelt(rng.choice(long), rng) + " "),
        "phrase": lambda: Query(q=f'"{pair()}"'),
        "filtered: one conversation": lambda: Query(q=english(), conversations={f"chat/{(n := rng.randrange(500)) % 50}/{n}"}),
        "filtered: topic filter": lambda: Query(q=english(), topic_filter=f"chat/{rng.randrange(50)}/#"),
        "filtered: sender, second half": lambda: Query(q=english(), sender=f"u/{rng.randrange(SENDERS)}", since=middle),
        "allowed: 1000 conversations": lambda: Query(q=english(), allowed=mine),
    }


async def fill(engine: Engine, corpus: Corpus, messages: int, batch: int) -> tuple[float, float]:
    """Index the messages; seconds by the clock and of processor time, without making them up."""
    wall = own = 0.0
    documents = corpus.documents(messages)
    while some := list(itertools.islice(documents, batch)):
        started, used = time.perf_counter(), time.process_time()
        await engine.index(some, {0: some[-1].id})
        wall += time.perf_counter() - started
        own += time.process_time() - used
    return wall, own


async def ask(engine: Engine, make: Callable[[], Query], times: int) -> tuple[list[float], list[float], float]:
    """Milliseconds of each query by the clock and of processor time, and the mean of totals."""
    taken, spent, totals = [], [], 0
    for _ in range(times):
        query = make()
        started, used = time.perf_counter(), time.process_time()
        results = await engine.search(query)
        taken.append((time.perf_counter() - started) * 1000)
        spent.append((time.process_time() - used) * 1000)
        totals += results.total
    return taken, spent, totals / times


def percentile(values: list[float]) -> float:
    """The 99th."""
    return statistics.quantiles(values, n=100, method="inclusive")[98]


async def run(messages: int, queries: int, batch: int, path: Path, kind: str = "embedded") -> str:
    """The figures as text, on a new index or on the one that is in the file."""
    corpus = Corpus(1)
    engine: Engine = own_engine(kind, str(path), MemoryStorage()) if kind != "embedded" else Fts5Engine(path, seconds=60)
    parts = [f"Search in {messages:,} messages: {queries} queries of each kind, one after the other"]
    await engine.open()
    try:
        if not await engine.positions():
            wall, own = await fill(engine, corpus, messages, batch)
            files = [file for one in path.parent.glob(path.stem + ".*") for file in (one, *one.rglob("*"))]
            size = sum(file.stat().st_size for file in files if file.is_file())
            rate = f"{messages / wall:,.0f} messages/s, {own / messages * 1e6:.1f} us of CPU each, {size / 1e6:,.0f} MB on disk"
            parts.append(f"indexed in batches of {batch}: {rate}")
        rows = [["query", "p50 ms", "p99 ms", "max ms", "p99 ms of CPU", "mean total", f"p99 under {AIM:g} ms"]]
        for name, make in kinds(corpus, messages).items():
            taken, spent, total = await ask(engine, make, queries)
            p99 = percentile(taken)
            figures = [statistics.median(taken), p99, max(taken), percentile(spent)]
            rows.append([name, *(f"{figure:.1f}" for figure in figures), f"{total:.0f}", "reached" if p99 < AIM else "MISSED"])
        parts.append(columns(rows))
    finally:
        await engine.close()
    return "\n\n".join(parts)


def report(messages: int, queries: int, batch: int = 2000, kind: str = "embedded") -> str:
    """The same on an index that is made for it and removed."""
    with tempfile.TemporaryDirectory() as directory:
        return asyncio.run(run(messages, queries, batch, Path(directory) / "search.db", kind))


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--messages", type=int, default=1_000_000)
    parser.add_argument("--queries", type=int, default=200, help="of each kind")
    parser.add_argument("--batch", type=int, default=2000, help="messages of one index transaction")
    parser.add_argument("--keep", type=Path, help="a file to keep the index in, and to use again")
    parser.add_argument("--engine", choices=["embedded", "tantivy"], default="embedded")
    options = parser.parse_args()
    if options.keep:
        print(asyncio.run(run(options.messages, options.queries, options.batch, options.keep, options.engine)))
    else:
        print(report(options.messages, options.queries, options.batch, options.engine))


if __name__ == "__main__":
    main()
