"""Settings: from `config.yaml` and the environment to one checked `Settings`.

Kept true: whatever is wrong is said with the value, its place and what would be right, before anything is opened.
"""

from broker.config.certificate_watch import CertificateWatch
from broker.config.certificates import Certificate, Expiry
from broker.config.changes import Reloaded, taken_over
from broker.config.check import all_problems, plugin_problems, settings_problems
from broker.config.origins import Origins, refusal
from broker.config.plugin_settings import checked, plugin_class
from broker.config.plugins import ALIASES, LEFT_OUT
from broker.config.remainder import remainder
from broker.config.settings import (
    ConfigError,
    Limits,
    Listener,
    Log,
    Mqtt,
    Settings,
    Tls,
    checked_bind,
    checked_mode,
    is_loopback,
    load,
    parse_duration,
    parse_size,
    socket_path,
    split_bind,
)
from broker.config.sources import Sources, dotted, shown, without_password
from broker.config.wording import suggest, wanted

__all__ = [
    "ALIASES",
    "LEFT_OUT",
    "Certificate",
    "CertificateWatch",
    "ConfigError",
    "Expiry",
    "Limits",
    "Listener",
    "Log",
    "Mqtt",
    "Origins",
    "Reloaded",
    "Settings",
    "Sources",
    "Tls",
    "all_problems",
    "checked",
    "checked_bind",
    "checked_mode",
    "dotted",
    "is_loopback",
    "load",
    "parse_duration",
    "parse_size",
    "plugin_class",
    "plugin_problems",
    "refusal",
    "remainder",
    "settings_problems",
    "shown",
    "socket_path",
    "split_bind",
    "suggest",
    "taken_over",
    "wanted",
    "without_password",
]
