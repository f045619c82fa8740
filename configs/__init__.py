"""Hyper-parameter files, by name."""
