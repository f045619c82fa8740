"""Returns and losses: pure functions of tensors."""
