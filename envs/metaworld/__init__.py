"""Meta-World v3 (Sawyer arm, 50 tasks) with language instructions and camera observations."""
