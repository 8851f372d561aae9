def explain(e,n,a): return None
