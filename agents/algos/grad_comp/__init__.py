"""Gradient functions."""
