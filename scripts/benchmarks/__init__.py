"""Benchmarks by group; ``bench.py`` is their command line."""
