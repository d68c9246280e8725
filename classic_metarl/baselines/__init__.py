"""Rows to compare meta-learners with: what a learner gets without learning to learn."""
