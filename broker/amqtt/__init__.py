"""amqtt's plugins over our broker: they load from our configuration, hear events and ask for what amqtt's broker offers.

Kept true: a plugin made for amqtt works unchanged, and where nobody listens to an event the message path knows nothing of it.
"""
