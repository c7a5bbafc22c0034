"""The console as it is served; tests/interop/console has it in a browser."""
