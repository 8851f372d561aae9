"""Benchmarks on the twin of a real arm, over its serial port."""
