"""Does to a pool whatever can be done to one, in many random orders; a longer form of
tests/pool/test_state_machine.py, with a seed of its own.

python tests/soak/states.py [--orders 20000] [--seed N]
"""

from __future__ import annotations

import argparse
import logging
import random
import sys
import time
from pathlib import Path

from hypothesis import Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test

sys.path.insert(0, str(Path(__file__).parents[1]))
from pool.test_state_machine import PROFILE, Machine


def main() -> None:
    parser = argparse.ArgumentParser(description="Tries a pool again and again; see the module's docstring.")
    parser.add_argument("--orders", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    options = parser.parse_args()
    logging.getLogger("penstock_pool").setLevel(logging.CRITICAL)
    print(f"trying a pool in {options.orders} orders of events (seed {options.seed})", flush=True)
    began = time.monotonic()
    chosen = settings(
        PROFILE, max_examples=options.orders, derandomize=False, phases=(Phase.generate, Phase.shrink)
    )
    run_state_machine_as_test(seed(options.seed)(Machine), settings=chosen)
    print(f"{options.orders} orders in {time.monotonic() - began:.0f} s: every promise kept")


if __name__ == "__main__":
    main()
