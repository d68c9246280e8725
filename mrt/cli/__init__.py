"""The `mrt` command."""
