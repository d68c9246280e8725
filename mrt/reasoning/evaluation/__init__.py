"""`mrt eval`: what test-time compute bought, on any model, with intervals."""
