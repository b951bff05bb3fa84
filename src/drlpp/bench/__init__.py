"""Benchmarks of planners: named suites of problems, a runner that resumes, and tables of what came out."""

from drlpp.bench.case import Case, Suite
from drlpp.bench.runner import run_suite
from drlpp.bench.suites import find_suite, suites
from drlpp.bench.summary import Summary, summarize

__all__ = ["Case", "Suite", "Summary", "find_suite", "run_suite", "suites", "summarize"]
