"""How an action is chosen from what the network says."""
