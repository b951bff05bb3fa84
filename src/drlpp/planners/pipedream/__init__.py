"""PipeDream's optimiser, as its authors published it."""
