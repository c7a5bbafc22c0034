"""Plans as text, and the page whose figures are what its commands print."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Sequence

from bench.sizing.figures import Figures
from bench.sizing.model import BETWEEN_LOOKS_MS, Assumptions, NoPlan, Plan, hot_groups
from bench.sizing.simulate import Latency
from bench.table import columns

_BLOCK = re.compile(r"(?<=^```console\n)\$ (python -m bench\.sizing\b[^\n]*)\n.*?(?=^```$)", re.MULTILINE | re.DOTALL)


def plans(
    made: Sequence[tuple[Plan, Latency]],
    impossible: Sequence[NoPlan],
    figures: Figures,
    assumed: Assumptions,
    *,
    stream: bool,
) -> str:
    """A column for each load; a line for each that no cluster carries."""
    head = ["messages a second", *(f"{plan.load.messages:,.0f}" for plan, _ in made)]
    lines: list[tuple[str, Callable[[Plan, Latency], str]]] = [
        ("recipients of each", lambda plan, _: f"{plan.load.recipients:g}"),
        ("nodes, a core each", lambda plan, _: f"{plan.nodes:,}"),
        (f"machines of {assumed.cores} cores for them", lambda plan, _: f"{plan.machines:,}"),
        ("messages a second, a node", lambda plan, _: f"{plan.messages:,.0f}"),
        ("messages in a group", lambda plan, _: f"{plan.group:,.0f}"),
        ("a node's core is busy", lambda plan, _: f"{plan.busy:.0%}"),
        ("parcels to other nodes, a message", lambda plan, _: f"{plan.parcels / plan.messages:.2f}"),
        ("looks at what others tell, a second", lambda plan, _: f"{plan.looks:,.0f}"),
        ("database: shards", lambda plan, _: f"{plan.shards:,}"),
        ("... operations a second", lambda plan, _: f"{plan.database.operations:,.0f}"),
        ("... documents written a second", lambda plan, _: f"{plan.database.documents:,.0f}"),
        ("... MB a second to it", lambda plan, _: f"{plan.database.sent / 1e6:,.1f}"),
        ("... MB a second from it", lambda plan, _: f"{plan.database.received / 1e6:,.1f}"),
        ("simulated: ack p50, p99, ms", lambda _, late: f"{late.ack_p50:.0f}, {late.ack_p99:.0f}"),
        ("... behind the ack, p50, p99, ms", lambda _, late: f"{late.behind_p50:.1f}, {late.behind_p99:.1f}"),
    ]
    rows = [head, *([title, *(show(plan, late) for plan, late in made)] for title, show in lines)]
    notes = [
        *(f"! {error}" for error in impossible),
        f"Costs: {figures.build} over {figures.server}; {figures.machine}.",
        f"Command: {figures.command}",
        f"Assumed, not measured: a majority write {assumed.write_ms:g} ms, a linearizable read {assumed.probe_ms:g}, any other "
        f"{assumed.read_ms:g}; a shard takes",
        f"{assumed.shard_documents:,.0f} documents and {assumed.shard_bytes / 1e6:,.0f} MB a second (three machines: 16 "
        f"cores, 64 GB, NVMe); a core is {assumed.speed:g} times the",
        f"measured one, busy to {assumed.load:.0%}; {assumed.payload} bytes of payload; nodes "
        f"{'hear by change streams' if stream else 'poll'}.",
        *(
            [f"And if a node looked every {assumed.between_looks_ms:g} ms at most; it does every {BETWEEN_LOOKS_MS:g}."]
            if assumed.between_looks_ms != BETWEEN_LOOKS_MS
            else []
        ),
        f"One inbox or one topic: about {hot_groups(assumed):,.0f} groups a second, from however many nodes.",
    ]
    return columns(rows) + "\n\n" + "\n".join(notes)


def measured(figures: Figures) -> str:
    """What was measured."""
    about = f"{figures.build} over {figures.server}\n{figures.machine}\nCommand: {figures.command}"
    return f"{about}\n\n{figures.table}"


def page(text: str, run: Callable[[list[str]], str]) -> str:
    """A page of documentation with what each `$ python -m bench.sizing` in a console block prints now."""
    return _BLOCK.sub(lambda found: f"$ {found[1]}\n{run(shlex.split(found[1])[3:])}\n", text)
