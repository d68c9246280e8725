"""Tests: a mirror of the tree, what they share (support), and programs that they start (programs)."""
