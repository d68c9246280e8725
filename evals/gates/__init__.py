"""Gates: exact targets that tell a right system from a wrong one. `table.yaml` lists them, `python -m evals.gates` runs
them.
"""
