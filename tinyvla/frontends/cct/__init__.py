"""Compact Transformers (arXiv 2104.05704): the networks and a classifier that learns from labels."""
