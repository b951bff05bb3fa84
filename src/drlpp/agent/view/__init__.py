"""A planning problem as the networks see it: features of operators and of classes of devices."""
