"""Graphs that are made by rule: model families and random graphs."""
