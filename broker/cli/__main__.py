"""``python -m broker.cli``: the same as ``tideline``."""

from broker.cli.main import main

main()
