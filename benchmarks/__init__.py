"""Benchmarks: `python -m benchmarks.<name> key=value ...`; `--help` lists the settings of each."""
