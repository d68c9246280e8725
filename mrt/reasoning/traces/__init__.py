"""A thought as token ids: prompts and think tags, episodes, one trial of one trace."""
