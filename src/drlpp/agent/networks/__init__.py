"""Encoder, partitioner and scheduler, and the file that holds their weights."""
