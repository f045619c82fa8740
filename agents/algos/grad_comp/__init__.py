"""How an error becomes a gradient."""
