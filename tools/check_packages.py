"""Run by an environment's own Python: print as JSON which packages are installed and which have lost files.

`installed` holds the names of the packages; `damaged` holds `name==version` of those that miss one of their files or,
with `--sizes`, hold one of another size, as an interrupted installation leaves them.
"""

import csv
import json
import os
import sys
import sysconfig
from email.parser import HeaderParser


def is_damaged(site: str, info: str, sizes: bool) -> bool:
    """Whether a file that RECORD lists is missing or of another size (bytecode may come and go)."""
    try:
        with open(os.path.join(site, info, "RECORD"), encoding="utf-8", newline="") as record:
            for path, _digest, size in csv.reader(record):
                if path.endswith(".pyc"):
                    continue
                found = os.stat(os.path.join(site, path)).st_size
                if sizes and size and found != int(size):
                    return True
    except (OSError, ValueError):
        return True
    return False


def name_and_version(site: str, info: str) -> "tuple[str, str]":
    """From METADATA, or from the folder's name where METADATA is lost."""
    try:
        with open(os.path.join(site, info, "METADATA"), encoding="utf-8") as metadata:
            headers = HeaderParser().parse(metadata)
        return headers["Name"], headers["Version"]
    except OSError:
        name, _, version = info[: -len(".dist-info")].rpartition("-")
        return name, version


def main() -> None:
    installed, damaged = [], []
    sizes = "--sizes" in sys.argv[1:]
    for site in sorted({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}):
        for info in sorted(os.listdir(site)):
            if not info.endswith(".dist-info"):
                continue
            name, version = name_and_version(site, info)
            installed.append(name)
            if is_damaged(site, info, sizes):
                damaged.append(name + "==" + version)
    print(json.dumps({"installed": installed, "damaged": damaged}))


if __name__ == "__main__":
    main()
