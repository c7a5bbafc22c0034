"""Sessions from CONNECT to expiry: subscriptions, the in-flight window, wills, and readers without a connection.

Kept true: every change takes its place in the order of groups, and whoever holds an older session epoch changes nothing.
"""
