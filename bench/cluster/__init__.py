"""Several nodes over one database: what they reach together, and what a message costs each of them.

    nodes    the database, the nodes, and the proxies between them
    proxy    the process that counts operations, documents and bytes on their way to the database
    cells    what is measured
    load     what the generator does to them, beyond the shapes of a single broker
    costs    what one group, message, recipient and parcel cost, worked out from the cells; `bench.sizing` goes on from there
    table    all that as text; run puts it together

`bench.storage_writers` measures several writers on one inbox and on separate ones, without brokers.
"""
