"""The oldest versions of what the package needs, for pip: `.ci/run` installs them and runs tests.

python tests/oldest.py       numpy==2.1 numba==0.62 ...
"""

import configparser
from pathlib import Path


def oldest():
    """Requirements such as numpy==2.1, one for each lower bound in setup.cfg."""
    setup = configparser.ConfigParser()
    setup.read(Path(__file__).parent.parent / "setup.cfg")
    required = setup["options"]["install_requires"].split("\n")
    return [line.replace(">=", "==") for line in required if line and not line.startswith("#")]


if __name__ == "__main__":
    print(*oldest())
