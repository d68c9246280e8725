"""Generation engines: sampling, forced answers and teacher-forced scores that share the keys and values of a prefix."""
