"""Delivery: what a device is due, from memory or from storage, once and in order.

Kept true: laws 3 to 5 of the design. An offset moves only over what was acknowledged, and a backlog is in storage, never in
memory.
"""
