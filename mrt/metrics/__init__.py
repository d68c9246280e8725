"""Numbers and their intervals: regret, accuracy under budgets, the bootstrap."""
