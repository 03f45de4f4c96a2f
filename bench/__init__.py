"""Benchmarks: each checks its results before it times them."""
