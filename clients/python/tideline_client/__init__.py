"""A client of a Tideline broker for apps that work offline: see `Client`."""

from tideline_client.client import Client
from tideline_client.errors import NoAnswer, RequestFailed, StoreInUse
from tideline_client.model import Message, Outgoing, Receipt

__all__ = ["Client", "Message", "NoAnswer", "Outgoing", "Receipt", "RequestFailed", "StoreInUse"]
