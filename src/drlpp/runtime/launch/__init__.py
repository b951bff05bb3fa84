"""Processes of a run: starting, watching, restarting, and measuring many plans."""
