"""The console: a web page that shows the broker, and lets its user do what the HTTP API lets that user do.

Kept true: the page is files without data, and asks the API as any other program would. It has no rights of its own.
"""

from plugins.console.plugin import ConsolePlugin

__all__ = ["ConsolePlugin"]
