"""What the fixed piece of work of bantam/run/noise.py says on this machine: quiet, and with loops beside it.

    python -m benchmarks.noise [SAMPLES]

Prints, for each situation, the work's median time, its spread and how long it waited for a core, six times. The limits
in bantam/run/noise.py were chosen from it.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from bantam.run.noise import Noise, sample
from serving.backend.cores import usable_cores

LOOP = "while True: pass"
BURSTS = """
import time
while True:
    end = time.perf_counter() + 0.05
    while time.perf_counter() < end: pass
    time.sleep(0.45)
"""


@contextmanager
def beside(programs: Sequence[str]) -> Iterator[None]:
    """Run Python programs meanwhile."""
    running = [subprocess.Popen([sys.executable, "-c", program]) for program in programs]
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


def main() -> None:
    """Listen in each situation."""
    cores, samples = usable_cores(), int(sys.argv[1]) if len(sys.argv) > 1 else 60
    situations = {
        "quiet": [],
        "a loop on each core": [LOOP] * cores,
        "one loop": [LOOP],
        "bursts of 50 ms every 0.5 s on each core": [BURSTS] * cores,
    }
    for name, programs in situations.items():
        with beside(programs):
            for _ in range(6):
                heard = Noise((tuple(sample(cores) for _ in range(samples)),))
                print(
                    f"{cores} cores, {name}: {heard.kernel_ms:.2f} ms, spread {heard.spread:.2f}, "
                    f"waited {heard.waited:.1%}, {'busy' if heard.busy else 'quiet'}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
