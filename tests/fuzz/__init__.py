"""What strangers may send, made up by a fuzzer that watches which code it reaches: `python -m tests.fuzz`."""
