"""The rules as a plugin."""

from __future__ import annotations

from collections.abc import Awaitable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily

from broker.errors import fault_of, refuse
from broker.hooks import Group
from broker.publication import Publication
from plugins.following import FollowingPlugin, May, check_names
from plugins.http import add_router
from plugins.quiet import quiet_of
from plugins.rules.arrival import Arrival
from plugins.rules.config import MOST, Rule, RuleHook
from plugins.rules.leading import led
from plugins.rules.republish import Republisher
from plugins.rules.routes import make_router
from plugins.rules.running import RunningRule
from plugins.rules.seen import Seen
from plugins.rules.trial import Trial, trial, unseen
from plugins.webhooks.hook import HookRunner


@dataclass(slots=True)
class Deed:
    """What a rule does once a message is stored: tell ``hook``, or publish it again where that is None."""

    name: str
    running: RunningRule
    hook: RuleHook | None


class RulesPlugin(FollowingPlugin[Republisher | HookRunner]):
    """Does what the configuration says with messages that it picks."""

    @dataclass
    class Config:
        """Settings under ``plugins: rules:``."""

        rules: list[Rule] = field(default_factory=list)
        """The rules, each with a ``name`` and ``topics``. They act in this order."""
        max_payload: int = 16384
        """Bytes of a payload that rules look into, and make, at most."""
        hops: int = 8
        """Rules that may publish one message again, one after the other."""

        def __post_init__(self) -> None:
            refuse(self._faults())

        def _faults(self) -> Iterator[str]:
            yield from fault_of(lambda: check_names("rules", self.rules))
            if len(self.rules) > MOST:
                yield f"rules: has {len(self.rules)} rules; at most {MOST} are taken"
            if not 1 <= self.max_payload <= 1 << 20:
                yield f"max_payload {self.max_payload}: must be 1 to {1 << 20} bytes"
            if not 1 <= self.hops <= 100:
                yield f"hops {self.hops}: must be 1 to 100"

        def running(self, levels: int) -> list[RunningRule]:
            """The rules at work; ``levels``: of a topic, at most."""
            return [RunningRule(rule, most=self.max_payload, levels=levels) for rule in self.rules]

    config: Config
    kind = "rule"

    def __init__(self, context: Any) -> None:
        super().__init__(context)
        self._rules = self.config.running(self._services.settings.mqtt.max_topic_levels)
        before = [running for running in self._rules if running.rule.before]
        self._arrival = Arrival(self._services, before) if before else None
        self._quiet = quiet_of(context)
        add_router(context, make_router(self))

    # --- before the store ----------------------------------------------------------------------------------------------

    def arrived(self, publication: Publication) -> None:
        """Give a message the topic and payload that the rules say."""
        if self._arrival is not None and self._arrival.named(publication.message.topic):
            self._arrival.change(publication)

    def before_ack(self, group: Group) -> Awaitable[None] | None:
        """Ask access control about topics that the publishers did not name."""
        return self._arrival.allow(group) if self._arrival is not None else None

    # --- once it is stored ---------------------------------------------------------------------------------------------

    @property
    def sections(self) -> Sequence[Deed]:
        found: list[Deed] = []
        for running in self._rules:
            if running.rule.copies is not None:
                found.append(Deed(running.rule.name, running, None))
            if running.rule.webhook is not None:
                found.append(Deed(f"{running.rule.name}:webhook", running, running.rule.webhook))
        return found

    def runner(self, section: Deed, may: May) -> Republisher | HookRunner:
        if section.hook is None:
            return Republisher(self._services, section.running, may, self.config.hops)
        section.hook.meant = section.running.means
        return HookRunner(self._services, section.hook, may, self._quiet)

    # --- what the operator asks ----------------------------------------------------------------------------------------

    def states(self) -> list[dict[str, Any]]:
        """How each rule does on this node."""
        hooks = {runner.hook.name: runner.state() for runner in self._runners if isinstance(runner, HookRunner)}
        return [_state(running, hooks.get(running.rule.name, {})) for running in self._rules]

    def tried(self, about: dict[str, Any], payload: bytes) -> Trial:
        """The dry run. ``about``: topic, sender, client, qos and retain."""
        seen = Seen(**about, payload=payload, time=self._services.wall(), most=self.config.max_payload)
        return trial(self._rules, seen)

    def led(self, topic: str, user: str, client: str) -> tuple[str, list[str]]:
        """See `plugins.rules.leading`."""
        return led(self._rules, topic, user, client)

    def _metrics(self) -> Iterator[Metric]:
        yield from super()._metrics()
        help = "Messages that a rule meant, that it could do nothing with, that it published again, and that it did not."
        family = CounterMetricFamily("tideline_rule_messages", help, labels=["name", "result"])
        for running in self._rules:
            for result, count in running.counts().items():
                family.add_metric([running.rule.name, result], count)
        yield family

    @staticmethod
    def leads(config: Config, topic: str, user: str, client: str, *, levels: int) -> tuple[str, list[str]]:
        """Where they lead, for the command line."""
        return led(config.running(levels), topic, user, client)

    @staticmethod
    def trial(config: Config, about: Mapping[str, Any], payload: bytes, *, levels: int) -> Trial:
        """The dry run, for the command line. ``about``: topic, sender, client, qos, retain, and time in ms. Raises ValueError
        for a topic that no rule sees."""
        if why := unseen(about["topic"]):
            raise ValueError(f"topic {why}")
        return trial(config.running(levels), Seen(**about, payload=payload, most=config.max_payload))


def _state(running: RunningRule, hook: Mapping[str, Any]) -> dict[str, Any]:
    outcome = {"delivered": hook.get("delivered", 0), "error": hook.get("error")}
    rule = running.rule
    about = {"name": rule.name, "topics": rule.topics, "where": rule.where, "does": rule.does}
    return {**about, **running.counts(), **outcome}
