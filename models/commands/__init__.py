"""The commands: `autotx <command>` is the file of its name here. Nothing below imports them (see models/cli.py)."""
