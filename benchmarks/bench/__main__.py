"""``python -m benchmarks.bench``: Bantam side by side with its peers on this machine, in one table."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

from rich.console import Console

from bantam.errors import BantamError
from bantam.files import write_text
from benchmarks.bench import plot, results, table
from benchmarks.bench.run import bench
from benchmarks.bench.state import Settings
from benchmarks.bench.workloads import LONG_ROUNDS

ROUNDS = {"quick": 6, "full": 10}
"""Many short ones rather than a few long ones: a slow moment of the machine then hits all contenders alike."""
TEXTS = {"quick": 100, "full": 250}


def main() -> int:
    """Run the bench; returns the exit code: 0 also where contenders failed, for that is a result."""
    arguments = parse()
    profile = arguments.profile
    settings = Settings(
        model=arguments.model,
        data=arguments.data,
        profile=profile,
        rounds=arguments.rounds or ROUNDS[profile],
        texts=arguments.texts or TEXTS[profile],
        seconds=arguments.seconds,
        long_rounds=arguments.long_rounds or LONG_ROUNDS[profile],
        only=tuple(filter(None, arguments.only.split(","))),
        build=arguments.build,
        command=shlex.join(["python", "-m", "benchmarks.bench", *sys.argv[1:]]),
    )
    console = Console()
    try:
        found = bench(settings, lambda line: console.print(line, markup=False, highlight=False))
    except BantamError as exc:
        print(exc, file=sys.stderr)
        return exc.exit_code
    except KeyboardInterrupt:
        print("Stopped. What was finished is kept: the same command goes on from here.", file=sys.stderr)
        return 130
    results.write(found, settings.root / "bench.json")
    write_text(settings.root / "bench.md", table.markdown(found))
    plots = plot.draw(found, settings.root)
    table.show(found, console)
    written = ", ".join(str(path) for path in (settings.root / "bench.json", settings.root / "bench.md", *plots))
    console.print(f"Written: {written}", markup=False, highlight=False)
    return 0


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench", description=__doc__)
    parser.add_argument("--model", default="minilm", help="as for bantam optimize: short name, hub id or folder")
    parser.add_argument("--data", default="goemotions-ekman", help="as for bantam optimize; several labels a text")
    parser.add_argument("--profile", default="quick", choices=sorted(ROUNDS))
    parser.add_argument("--rounds", type=_positive, help=f"by profile: {ROUNDS}")
    parser.add_argument("--texts", type=_positive, help=f"timed in each round; by profile: {TEXTS}")
    parser.add_argument("--seconds", type=float, default=1.0, help="of 16 clients, for each server in each round")
    parser.add_argument("--long-rounds", type=_positive, help=f"of texts of 32, 128 and 512 tokens; {LONG_ROUNDS}")
    parser.add_argument("--only", default="", help="parts of contenders' names, separated by commas")
    parser.add_argument("--build", type=Path, default=Path("build"), help="where runs are; results go to bench/ in it")
    return parser.parse_args()


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"got {text}, expected at least 1")
    return value


if __name__ == "__main__":
    sys.exit(main())
