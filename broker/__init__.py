"""What an MQTT broker is, in packages that stand on one another: docs/architecture.md draws them.

Kept true: the laws (docs/laws.md), with any storage and any plugins. Neither a database driver nor a plugin is imported here.
"""
