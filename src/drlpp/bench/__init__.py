"""Benchmarks of planners: named suites of problems, a runner that resumes, and tables of what came out."""
