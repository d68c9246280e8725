"""Environments on tensors, by name."""
