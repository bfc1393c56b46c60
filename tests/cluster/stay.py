"""A cluster for a person at the terminal: it stays until Ctrl-C.

python tests/cluster/stay.py [--without-node]
"""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from plugins import kubernetes_images
from plugins.kubernetes_cluster import cluster
from plugins.kubernetes_programs import Missing


def stay(node: bool) -> None:
    """Says how to reach it as soon as it is ready, and ends it when asked to."""
    with cluster(_say) as started:
        if node:
            started.start_node()
            image = started.load(kubernetes_images.python())
            _say(f"ready; pods may use {image} with imagePullPolicy: Never. Ctrl-C ends it")
        print(f"export PATH={started.programs.folders}:$PATH")
        print(f"export KUBECONFIG={started.kubeconfig}", flush=True)
        while True:
            signal.pause()


def _say(text: str) -> None:
    print(f"==> {text}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Starts a cluster that stays until Ctrl-C.")
    parser.add_argument("--without-node", action="store_true", help="an API server and controllers only")
    arguments = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    try:
        stay(node=not arguments.without_node)
    except Missing as told:
        sys.exit(str(told))
    except KeyboardInterrupt:
        _say("ended")


if __name__ == "__main__":
    main()
