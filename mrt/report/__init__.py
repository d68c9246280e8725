"""The HTML page: its data, what is computed from them, plots, tables and templates."""
