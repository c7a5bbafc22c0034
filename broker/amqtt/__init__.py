"""amqtt's plugins over our broker: they load from our configuration, hear events and ask for what amqtt's broker offers.

Kept true: a plugin made for amqtt works unchanged, and where nobody listens to an event the message path knows nothing of it.
"""

from broker.amqtt.api import ConnectedDevices, DeviceState, ServerStatus, Services, Undecided
from broker.amqtt.broker_context import TidelineContext
from broker.amqtt.clients import Listed, Wanted
from broker.amqtt.interceptor import intercepted
from broker.amqtt.left_open import refuse_unguarded, unguarded
from broker.amqtt.plugin_host import BrokerEvents, PluginHost
from broker.amqtt.server_api import BROKER_USER, ServerApi

__all__ = [
    "BROKER_USER",
    "BrokerEvents",
    "ConnectedDevices",
    "DeviceState",
    "Listed",
    "PluginHost",
    "ServerApi",
    "ServerStatus",
    "Services",
    "TidelineContext",
    "Undecided",
    "Wanted",
    "intercepted",
    "refuse_unguarded",
    "unguarded",
]
