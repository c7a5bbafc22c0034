"""``python -m broker.cli``: the same as ``tideline``."""

from broker.cli.entry import main

main()
