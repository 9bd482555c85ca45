"""A folder that nobody has seen yet, looked at, and a config for it."""
