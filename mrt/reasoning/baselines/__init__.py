"""Rivals of MRT on the same trainer, one file each; those that a YAML alone expresses stand in recipes/rivals only."""
