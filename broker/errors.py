"""What keeps the broker from starting. For errors of the wire see `broker.packets.codes`, of storage `storage.errors`."""


class StartError(Exception):
    """The broker cannot start as it is configured; the message names the setting and what would be right."""
