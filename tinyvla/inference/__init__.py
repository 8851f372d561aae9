"""Other ways to compute chunks than in training: compiled, in fewer bits, or by another engine.

`exported` and `sessions` do not import PyTorch, directly or indirectly.
"""
