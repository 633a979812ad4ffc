"""The corpus engine compared with its peers, in CPU seconds on one core: tables, and JSON as the last line.

    python -m benchmarks.corpus [--quick] [--only minhash|neardup|quality|ingest]

Real text comes from ../shared/corpora beside the repository, else from the documentation of the installed packages. The
peers have an environment of their own, which `python -m benchmarks.peers` makes. All parts take about ten minutes.
"""

import argparse
import importlib
import json

from benchmarks.peers import check

PARTS: dict[str, dict[str, bool | int]] = {  # arguments of --quick
    "minhash": {"quick": True},
    "neardup": {"quick": True},
    "quality": {"agreed": 300, "timed": 60},
    "ingest": {"big": False},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="smaller samples, a few minutes")
    parser.add_argument("--only", choices=list(PARTS), help="only one part")
    arguments = parser.parse_args()
    if arguments.only != "ingest":
        check()
    figures: dict[str, float] = {}
    for part in [arguments.only] if arguments.only else list(PARTS):
        module = importlib.import_module(f"benchmarks.corpus_{part}")
        figures |= module.measure(**PARTS[part] if arguments.quick else {})
    print(json.dumps({name: round(value, 4) for name, value in figures.items()}))


if __name__ == "__main__":
    main()
