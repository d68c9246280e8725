"""Memory: what a trial taught stands in a table that is read by similarity (model-free and neural episodic control)."""
