"""`python -m autotx` is the command line."""

import sys

from autotx.models.cli import main

if __name__ == "__main__":
    sys.exit(main())
