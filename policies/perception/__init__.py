"""How front-ends and other vision models are trained: one file each, and what they share in `base.py`."""
