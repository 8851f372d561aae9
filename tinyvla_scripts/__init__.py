"""Entry points: one module per command, run as `python train.py` in a clone and as `tinyvla-train` when installed."""
