"""Models: loading and merging them, adapters, and the tiny model that learns on a laptop."""
