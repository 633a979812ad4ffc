"""The corpus engine beside its peers, in CPU seconds on one core: tables, and one JSON object as the last line.

    python -m benchmarks.corpus [--quick] [--only minhash|neardup|quality|ingest]

Real text is looked for in ../shared/corpora, beside the repository; where that is missing, the documentation of the
installed packages stands in. The peers are in the extra `bench`. The whole takes about ten minutes.
"""

import argparse
import importlib
import json

PARTS = ("minhash", "neardup", "quality", "ingest")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="smaller samples: some minutes")
    parser.add_argument("--only", choices=PARTS, help="one part alone")
    arguments = parser.parse_args()
    figures: dict[str, float] = {}
    for part in [arguments.only] if arguments.only else PARTS:
        module = importlib.import_module(f"benchmarks.corpus_{part}")
        figures |= module.measure(quick=arguments.quick)
    print(json.dumps({name: round(value, 4) for name, value in figures.items()}))


if __name__ == "__main__":
    main()
