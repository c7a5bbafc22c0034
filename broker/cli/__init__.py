"""The ``tideline`` command: a file for each of its commands.

Kept true: what is wrong is lines for people on standard error and an exit code, never a traceback, and shows no secret.
"""
