"""What acts and what learns."""
