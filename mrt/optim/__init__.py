"""How parameters move: several optimisers as one, the trust-region step."""
