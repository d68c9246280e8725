"""Model-based: a model of the dynamics adapts to the task, and a planner acts by it."""
