"""Drawing plans from a policy, and their rewards."""
