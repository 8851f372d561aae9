"""Hydra configuration: the YAML groups, and `app`, the front door of the entry points."""
