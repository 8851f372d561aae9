"""Hydra configuration: YAML groups, typed settings (`composing.decode`), and the start of every entry point (`app`)."""
