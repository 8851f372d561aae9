"""Chunks computed in other ways than by the model as it was trained: compiled, in fewer bits, or by another engine.

`exported` and `sessions` import neither PyTorch nor anything that does.
"""
