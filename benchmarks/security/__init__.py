"""Benchmarks of hostile, broken and mistaken input."""
