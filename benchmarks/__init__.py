"""Benchmarks: one question per file, each prints its table."""
