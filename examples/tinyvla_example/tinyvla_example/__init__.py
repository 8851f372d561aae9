"""Example of an installable package that adds an environment, a backbone and a front-end."""
