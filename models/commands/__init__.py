"""The commands: `autotx <command>` is the file of its name here (see models/cli.py), and maps.py what several draw.

No library module imports from here.
"""
