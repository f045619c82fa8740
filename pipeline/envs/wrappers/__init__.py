"""What stands between an environment and its lane: time limits, frames, noise in actions; by name."""
