"""What an answer is worth: verdicts, where the answer stands in a completion, a grader for mathematics.

Three things go wrong with verifiers in practice, and each is settled here. A hang becomes `TIMEOUT`: the comparison
runs in a process that is killed at its limit. A verifier that fails becomes `ERROR`, which is no zero: its `reward` is
None, so the trainer leaves the row out of its group's statistics and counts it. A gold answer that cannot be read is an
`ERROR` as well, never a match.
"""
