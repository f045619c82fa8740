"""The environments and what makes them by name."""
