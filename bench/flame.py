"""Stacks as a flame graph: an SVG that a browser or GitHub shows, with the whole of a frame's name and share as its tooltip."""

from __future__ import annotations

import zlib
from collections import Counter
from html import escape

from bench.stacks import Stack, Stacks

WIDTH, LINE = 1200, 15
LEAST = 0.004
"""What is narrower than this part of the whole is left out, with all above it."""
_LETTER = 6.2  # pixels


class _Frame:
    """One box: how many samples it is in, and what it called."""

    def __init__(self) -> None:
        self.count = 0
        self.calls: dict[str, _Frame] = {}

    def add(self, stack: Stack, count: int) -> None:
        self.count += count
        at = self
        for name in stack:
            at = at.calls.setdefault(name, _Frame())
            at.count += count

    def depth(self, least: float) -> int:
        return 1 + max((call.depth(least) for call in self.calls.values() if call.count >= least), default=0)


def svg(stacks: Stacks, title: str) -> str:
    """The graph: each thread beside the others, the callers below, as wide as what they used of the processor."""
    whole = _Frame()
    for thread in sorted(stacks):
        for stack, count in stacks[thread].items():
            whole.add((thread, *_from_the_loop(stack)), count)
    least = max(1.0, LEAST * whole.count)
    height = (whole.depth(least) + 2) * LINE
    boxes: list[str] = []
    _draw(whole, "all", 0.0, height - LINE, WIDTH / max(1, whole.count), least, whole.count, boxes)
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="monospace" font-size="10">\n'
        f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>\n<text x="4" y="11">{escape(title)}</text>\n'
    )
    return head + "\n".join(boxes) + "\n</svg>\n"


def _from_the_loop(stack: Stack) -> Stack:
    """Without what leads to the event loop or to a thread's function, and with a frame that calls itself once."""
    start = 0
    for place, name in enumerate(stack):
        if name in ("uv_run", "thread_run", "Worker._run", "threads.Worker._run", "base_events.BaseEventLoop._run_once"):
            start = place
            break
    kept = stack[start:]
    return tuple(name for place, name in enumerate(kept) if not place or kept[place - 1] != name)


def _draw(frame: _Frame, name: str, x: float, y: float, scale: float, least: float, total: int, boxes: list[str]) -> None:
    width = frame.count * scale
    hue = 10 + zlib.crc32(name.encode()) % 45
    label = f"{name} {frame.count / total:.1%}"
    letters = int((width - 4) / _LETTER)
    text = name if len(name) <= letters else name[: letters - 1] + "…" if letters > 3 else ""
    shown = f'<text x="{x + 2:.1f}" y="{y + 11}">{escape(text)}</text>' if text else ""
    boxes.append(
        f'<g><title>{escape(label)}</title><rect x="{x:.1f}" y="{y}" width="{max(0.3, width - 0.4):.1f}" height="{LINE - 1}" '
        f'fill="hsl({hue},85%,68%)"/>{shown}</g>'
    )
    for called, calls in sorted(frame.calls.items()):
        if calls.count >= least:
            _draw(calls, called, x, y - LINE, scale, least, total, boxes)
            x += calls.count * scale


def own(stacks: Stacks) -> Counter[tuple[str, str]]:
    """Samples by thread and innermost frame."""
    found: Counter[tuple[str, str]] = Counter()
    for thread, counted in stacks.items():
        for stack, count in counted.items():
            found[thread, stack[-1] if stack else "?"] += count
    return found
