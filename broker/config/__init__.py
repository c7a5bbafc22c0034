"""Settings: from `config.yaml` and the environment to one checked `Settings`.

Kept true: whatever is wrong is said with the value, its place and what would be right, before anything is opened.
"""
