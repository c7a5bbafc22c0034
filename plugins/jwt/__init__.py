"""JSON Web Tokens: who has one that a key of yours has signed is the user that it names, for as long as it says.

Kept true: a token counts by a listed algorithm and a key of its kind alone; while the keys cannot be had nobody is let in or
told that the token is wrong; no token is logged.
"""

from plugins.jwt.plugin import JwtPlugin

__all__ = ["JwtPlugin"]
