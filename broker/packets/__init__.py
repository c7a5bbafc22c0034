"""MQTT 3.1.1 and 5 on the wire: bytes in, packets out, and the rules of topic names and filters. No I/O.

Kept true: whatever the bytes and however they are cut, the outcome is packets or one violation with its reason code.
"""
