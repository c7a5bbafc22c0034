"""What is kept: `storage.interface` has the promises, `storage.rules` what an operation means, and each backend is a folder.

Kept true: what a commit returned for survives any crash, and the sequences of a timeline are 1 to N. Nothing here knows the
broker or a plugin.
"""
