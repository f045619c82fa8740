"""How much better than expected an action turned out."""
