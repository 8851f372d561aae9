"""TinyViT (arXiv 2207.10666), and its training from the stored predictions of a teacher.

The metrics are those of `cct/metrics.py`: both are classifiers.
"""
