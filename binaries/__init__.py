"""The programs, their flags, and what they show."""
