"""What keeps data and state: Reverb tables, and the checkpoints of a run."""

# Exempts loopback from proxies, before the first connection of a caller who imports nothing else of ours.
import pipeline  # noqa: F401
