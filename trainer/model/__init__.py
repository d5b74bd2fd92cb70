"""The decoder and its parts: attention, feed-forward, norms, positions, loss."""
