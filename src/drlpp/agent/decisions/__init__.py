"""The decisions of an episode, and the masks that keep them legal."""
