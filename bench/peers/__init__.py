"""The brokers that are compared. Order is the order of the table's columns."""

from __future__ import annotations

from bench.peers.amqtt import Amqtt
from bench.peers.base import Peer
from bench.peers.ceiling import Ceiling
from bench.peers.disk import Disk
from bench.peers.mosquitto import Mosquitto
from bench.peers.nats import Nats
from bench.peers.rabbitmq import RabbitMQ
from bench.peers.tideline import Tideline, TidelineInMemory, TidelinePure

USUAL = (Tideline, TidelinePure, Mosquitto, Nats, RabbitMQ, Amqtt, Ceiling, Disk)
PEERS: dict[str, type[Peer]] = {peer.name: peer for peer in (*USUAL, TidelineInMemory)}

__all__ = ["PEERS", "USUAL", "Peer"]
