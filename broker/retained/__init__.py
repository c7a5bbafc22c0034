"""What storage is asked about retained messages: those that memory has not, which expired, and how many there are.

Kept true: the pipeline never waits for any of it.
"""
