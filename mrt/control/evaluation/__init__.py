"""Policies measured on held-out tasks: suites, measures, scenes and the report of them."""
