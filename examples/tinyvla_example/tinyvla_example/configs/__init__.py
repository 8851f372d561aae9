"""YAML files of the parts, found by Hydra through the entry point `tinyvla.configs`."""
