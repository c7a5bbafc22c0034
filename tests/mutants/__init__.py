"""Laws broken on purpose, to see a test notice: `make mutants`, or ``make mutants ARGS='reorder epoch'`` for some."""
