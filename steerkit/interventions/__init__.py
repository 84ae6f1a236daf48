"""What changes a forward pass and comes off again: hooks, masks, counting."""
