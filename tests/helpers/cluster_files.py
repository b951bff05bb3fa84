"""Cluster files that several tests of the command line use."""

TWO_UNEQUAL = """
schema_version: 1
name: two
device_types:
  fast: {speed: 1.0, memory: 16GB}
  slow: {speed: 0.5, memory: 16GB}
hosts:
  - {name: a, devices: [fast, slow], link: {bandwidth: 10GB/s, latency: 5us}}
"""
