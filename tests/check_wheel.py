"""Does a wheel hold the whole package? `.ci/run` asks it of the wheel, and of the one made from the sdist.

    python tests/check_wheel.py WHEEL [ANOTHER]

Prints what is missing, and where two wheels differ. The exit status is 1 then.
"""

import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKED = {".py", ".typed", ".html", ".css", ".js", ".svg"}  # not the pictures and timings of README and site


def package_files():
    """The files of the package by the names that they have in a wheel."""
    folders = {"autotx": ROOT / "autotx", "autotx/models": ROOT / "models", "autotx/viz": ROOT / "viz"}
    found = {(name, file.relative_to(folder)) for name, folder in folders.items() for file in folder.rglob("*.*")}
    return {f"{name}/{file.as_posix()}" for name, file in found if file.suffix in PACKED}


def faults(wheels):
    """Lines that say what is wrong with the wheels: file names, the first of which is compared with the sources."""
    packed = [{i.filename: i.CRC for i in zipfile.ZipFile(wheel).infolist()} for wheel in wheels]
    lines = [f"{wheels[0]} lacks {name}" for name in sorted(package_files() - packed[0].keys())]
    for wheel, files in zip(wheels[1:], packed[1:]):
        lines += [f"{wheel} differs in {name}" for name in sorted({n for n, _ in files.items() ^ packed[0].items()})]
    return lines


if __name__ == "__main__":
    found = faults(sys.argv[1:])
    print("\n".join(found) or f"{', '.join(sys.argv[1:])}: whole")
    sys.exit(bool(found))
