"""How many nodes and how much database for so many messages a second, from measured costs: `python -m bench.sizing --help`.

figures   what `make bench ARGS='--only cluster --figures FILE'` wrote, and reads again
model     the least number of nodes, by formulas
simulate  one of these nodes in virtual time: the latencies that formulas don't give
text      the plan as a table, and `docs/sizing.md` kept as the commands in it print
"""
