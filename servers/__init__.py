"""What keeps data and state: Reverb tables, and the checkpoints of a run."""
