"""Compact Transformers (arXiv 2104.05704), and training of any classifier of timm from labels."""
