"""The commands of `autotx` (models/cli.py lists them), and maps.py, which draws for several of them.

No library module imports from here.
"""
