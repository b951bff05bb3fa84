"""What a run shows of itself: times, clocks, memory, signs of life."""
