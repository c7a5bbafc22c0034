"""What the broker does with messages: each plugin is a class that the configuration names.

Kept true: a plugin reaches the broker by its hooks and its API, and what is stored by storage's interface.
"""
