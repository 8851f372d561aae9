"""TinyViT (arXiv 2207.10666): the networks and their training on a teacher's stored answers."""
