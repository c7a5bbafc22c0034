"""Benchmarks: Tideline beside other brokers, driven by one generator in one run. `python -m bench --help`.

    cli        what to run, in which order; prints and saves
    shapes     the kinds of load and what is read off them
    peers/     the brokers: how each is started, where it listens, what its PUBACK means
    bounds     which of disk, loopback and cores a stream is near the end of
    release    this run's ratios beside those of the last release, in releases/
    kept       the figures that the documentation shows; pages: its tables made of them
    drive      one cell: one shape on one broker, its memory and processor time watched
    generator  the process that makes the load: load, many and storm (shapes), clients, reactor, wire (codec)
    table      figures, ratios and targets as text
    filled     Tideline with millions of stored messages against empty; prefill fills a database
    versions   MQTT 5 against 3.1.1
    hostile    a thousand polite clients (polite) beside a greedy, a hostile and a slow one (trouble)
    members    a change of membership in a channel of 100,000; conversations: the list of one user's 10,000
    recall     a message in 100,000 inboxes; presence: 100,000 users; schedules: 1,000 messages a second
    start      how long Tideline takes to start with millions of messages and sessions
    storage_bytes  what a message takes of the disk
    storage    the embedded storage alone; storage_mongodb: the other one's commits beside a bare insert_many
    cluster/   several nodes over one database; storage_writers: several writers without brokers
    sizing/    nodes and database for so many messages a second, from those figures
    profile    where Tideline's time goes during a shape: stacks (of a profiler), steps (a table), flame (a graph)
    paired     processor time of another checkout and of this one, in turn

Nothing in here imports the broker; `prefill` and what measures storage alone import the storage. It needs Linux (epoll, /proc).
"""
