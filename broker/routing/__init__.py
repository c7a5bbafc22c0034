"""Routing: which sessions a topic is due to, and the last retained message of each topic. No I/O.

Kept true: a match costs the topic's levels, not the number of filters.
"""
