"""Measurements, with their peers."""
