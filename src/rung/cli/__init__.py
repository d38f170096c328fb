"""The command `rung`."""
