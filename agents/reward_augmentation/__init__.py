"""Rewards to learn from in place of the environment's."""
