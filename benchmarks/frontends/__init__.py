"""Benchmarks of the front-ends and their training."""
