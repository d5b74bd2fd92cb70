"""A Ray cluster of two nodes on this machine, as a process of its own: `two_nodes.py FOLDER`.

Each node has a temporary folder of its own, FOLDER/first and FOLDER/second. Once both are up the
address stands in FOLDER/address; a file FOLDER/lose kills the second node with everything on it.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path


def main(folder: Path) -> None:
    """Start the nodes, and end with the process that began this one."""
    from ray.cluster_utils import Cluster

    size = {"num_cpus": 1, "num_gpus": 0, "object_store_memory": 80 * 2**20}
    nodes = []
    cluster = Cluster()
    for name in ("first", "second"):
        (folder / name / "ray").mkdir(parents=True)
        os.environ["TMPDIR"] = str(folder / name)
        once = {} if nodes else {"temp_dir": str(folder / "ray"), "include_dashboard": False}
        nodes.append(cluster.add_node(**size, **once))
    cluster.wait_for_nodes(600)
    (folder / "address.new").write_text(cluster.address)
    (folder / "address.new").rename(folder / "address")
    while os.getppid() == OWNER:
        if (folder / "lose").exists() and len(nodes) == 2:
            cluster.remove_node(nodes.pop(), allow_graceful=False)
        time.sleep(0.05)
    cluster.shutdown()


if __name__ == "__main__":
    OWNER = os.getppid()
    main(Path(sys.argv[1]))
