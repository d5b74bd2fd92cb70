"""A Ray cluster of two nodes on this machine, one of which dies when it is asked to."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path


def main() -> int:
    """Start the nodes, say where; kill the second and add a third once the file `lose` is there."""
    os.environ["RAY_AUTH_MODE"] = "disabled"
    # Where Ray notes the address of the newest cluster: a neighbour's note stays as it is.
    os.environ["TMPDIR"] = str(Path.cwd())
    Path("ray").mkdir()
    from ray.cluster_utils import Cluster

    size = {"num_cpus": 1, "num_gpus": 0, "object_store_memory": 80 * 2**20}
    head = {**size, "include_dashboard": False, "temp_dir": str(Path.cwd() / "c")}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    second = cluster.add_node(**size)
    ended: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: ended.append(number))
    _say("cluster", cluster.address)
    while not ended:
        if Path("lose").exists() and not Path("lost").exists():
            cluster.remove_node(second, allow_graceful=False)
            cluster.add_node(**size)
            _say("lost", "")
        time.sleep(0.02)
    cluster.shutdown()
    return 0


def _say(name: str, text: str) -> None:
    """Write a file whole."""
    Path(f"{name}.tmp").write_text(text)
    Path(f"{name}.tmp").rename(name)
