"""What one rank computes: stage modules, backward passes, precision, random numbers, batches."""
