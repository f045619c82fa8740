"""The kinds of replay memory, as Reverb tables."""
