"""The corpus engine beside its peers, in CPU seconds on one core: tables, and one JSON object as the last line.

    python -m benchmarks.corpus [--quick] [--only minhash|neardup|quality|ingest]

Real text is looked for in ../shared/corpora, beside the repository; where that is missing, the documentation of the
installed packages stands in. The peers are in the extra `bench`. The whole takes about ten minutes.
"""

import argparse
import importlib.util
import json

PARTS: dict[str, dict[str, bool | int]] = {  # each with what makes it quick
    "minhash": {"quick": True},
    "neardup": {"quick": True},
    "quality": {"agreed": 300, "timed": 60},
    "ingest": {"big": False},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="smaller samples: some minutes")
    parser.add_argument("--only", choices=list(PARTS), help="one part alone")
    arguments = parser.parse_args()
    figures: dict[str, float] = {}
    for part in [arguments.only] if arguments.only else list(PARTS):
        if importlib.util.find_spec(f"benchmarks.corpus_{part}") is None:
            print(f"\nThere is no benchmarks/corpus_{part}.py yet.")
            continue
        module = importlib.import_module(f"benchmarks.corpus_{part}")
        figures |= module.measure(**PARTS[part] if arguments.quick else {})
    print(json.dumps({name: round(value, 4) for name, value in figures.items()}))


if __name__ == "__main__":
    main()
