"""A chat in a terminal, which works offline: `python examples/chat.py alice chat/kitchen [host]`. /quit ends it."""

from __future__ import annotations

import sys

from tideline_client import Client, Message, Receipt


def main(name: str, topic: str, host: str = "localhost", port: str = "1883") -> None:
    def show(message: Message) -> None:
        print(f"{message.sender.partition('/')[2]}: {message.text}", flush=True)
        client.mark_read(topic, message.seq)

    def tell(receipt: Receipt) -> None:
        if receipt.users:
            print(f"  ({receipt.state} by {', '.join(receipt.users)})", flush=True)

    client = Client(host, int(port), device=name, store=f"{name}.db")
    client.on_message, client.on_receipt = show, tell
    client.subscribe(topic)
    for message in client.history(topic, 20):
        show(message)
    client.start()
    for line in sys.stdin:
        if line.strip() == "/quit":
            break
        client.send(topic, line.rstrip("\n"), receipt=["delivered", "read"])
    client.stop()


if __name__ == "__main__":
    main(*sys.argv[1:])
