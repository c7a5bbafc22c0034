"""The settings that must be alike on all nodes of a cluster: a node with others is refused at its start."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from broker.ids import LAYOUT

if TYPE_CHECKING:
    from broker.config import Settings

_SHARED = (("persistence", "policies"), ("sync", "start"), ("jobs", "retention"))
"""Plugin and option: what is kept of which topic, where a new device begins, and what is removed."""


def shared_settings(settings: Settings) -> dict[str, str]:
    """By name, as text that is the same for the same settings; what is left out is the same as nothing."""
    shared = {"message ids": LAYOUT}
    for plugin, option in _SHARED:
        value = _options(settings, plugin).get(option)
        shared[f"{plugin}.{option}"] = json.dumps(value, sort_keys=True, default=str) if value else "the default"
    return shared


def _options(settings: Settings, plugin: str) -> Mapping[str, Any]:
    return settings.plugins.get(plugin) or {}
