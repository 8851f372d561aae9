"""General ways to make models smaller: distillation from a stored or a live teacher."""
