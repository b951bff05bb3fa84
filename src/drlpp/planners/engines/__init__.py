"""What other engines can run, and planning inside those limits."""
