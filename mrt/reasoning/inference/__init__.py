"""Budgets at use: an answer within a budget, traces from anywhere scored, thoughts made longer."""
