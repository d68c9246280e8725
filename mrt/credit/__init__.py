"""Credits: each maps `Trials` to the weight (B, T) of every step in the policy gradient, zero outside `mask`.

The trainer never asks which credit it runs. Letters: R_b return of row b, J_j stop value after j episodes, p_j = J_j -
J_(j-1). One credit a file: outcome.py, progress.py (MRT), brpo.py, vineppo.py, returns.py; table.py finds them by name,
guard.py refuses those that cancel.
"""
