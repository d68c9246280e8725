"""MRT and its warm start, on trainers of TRL."""
