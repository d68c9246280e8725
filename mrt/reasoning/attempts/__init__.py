"""Several attempts at one task, with text of the environment between them."""
