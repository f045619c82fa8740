"""Learning rates that change during training."""
