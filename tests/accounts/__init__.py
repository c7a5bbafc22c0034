"""Users in storage: the plugin, its API, the commands, and what revoking does."""
