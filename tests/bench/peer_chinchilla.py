"""Time the `chinchilla` package's fit; runs in an environment of its own (`build/peers`).

Run: `build/peers/bin/python tests/bench/peer_chinchilla.py TABLE.csv [--full]`. TABLE.csv has the
columns N, D, loss. Its own objective function with the published width, its README's grid of 3,125
starts; without `--full` only the 32 corners, scaled up. Prints one JSON object.
"""

import argparse
import functools
import json
import os
import tempfile
import time
from pathlib import Path

os.environ.setdefault("MPLBACKEND", "Agg")

import numpy as np
import pandas as pd
from chinchilla import Chinchilla
from chinchilla._metrics import log_huber

STARTS = 5
GRID = {
    "E": np.linspace(1, 2, STARTS),
    "a": np.linspace(1, 10, STARTS),
    "b": np.linspace(1, 10, STARTS),
    "alpha": np.linspace(0.1, 0.7, STARTS),
    "beta": np.linspace(0.1, 0.7, STARTS),
}


def main() -> None:
    """Fit and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("table", type=Path)
    parser.add_argument("--full", action="store_true")
    options = parser.parse_args()
    frame = pd.read_csv(options.table)
    frame["C"] = 6.0 * frame["N"] * frame["D"]
    grid = GRID if options.full else {name: values[[0, -1]] for name, values in GRID.items()}
    with tempfile.TemporaryDirectory() as folder:
        frame[["C", "N", "D", "loss"]].to_csv(Path(folder) / "df.csv", index=False)
        fitter = Chinchilla(
            project_dir=folder,
            param_grid=grid,
            loss_fn=functools.partial(log_huber, delta=1e-3),
            log_level=40,
        )
        # Its picture of the fit is no part of the comparison.
        fitter.visualizer.optim = lambda *args, **kwargs: None
        start = time.process_time()
        fitter.fit(parallel=False)
        seconds = time.process_time() - start
    share = STARTS**5 / np.prod([len(values) for values in grid.values()])
    names = ("E", "A", "B", "alpha", "beta")
    record = {name: float(getattr(fitter, name)) for name in names}
    print(json.dumps({"cpu_s": seconds * float(share), "starts": STARTS**5, **record}))


if __name__ == "__main__":
    main()
