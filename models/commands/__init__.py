"""The commands of `autotx`, listed in models/cli.py, and maps.py, which several of them use.

Modules outside this package do not import from it, except models/cli.py.
"""
