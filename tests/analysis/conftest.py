"""Named truths, synthetic designs and the published tables."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.laws import Surface

HOFFMANN_PRINTED = Surface(E=1.69, A=406.4, B=410.7, alpha=0.34, beta=0.28)
HOFFMANN_TEX = Surface(
    E=float(np.exp(0.5267228)),
    A=float(np.exp(6.0073404)),
    B=float(np.exp(6.0179186)),
    alpha=0.33917084,
    beta=0.2849083,
)
BESIROGLU = Surface(E=1.8172, A=482.01, B=2085.43, alpha=0.3478, beta=0.3658)


@pytest.fixture(scope="session")
def laws_dir() -> Path:
    """The published tables; tests that need one are skipped where they are absent."""
    folder = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "laws"
    if not folder.is_dir():
        pytest.skip(f"published tables not found: {folder}")
    return folder


@pytest.fixture(scope="session")
def epoch_points(laws_dir: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """N, D, L of the 240 points of the Chinchilla reconstruction."""
    frame = pd.read_csv(laws_dir / "epoch_chinchilla.csv")
    used = frame[frame["excluded_by_epoch"] == 0]
    return tuple(used[c].to_numpy(dtype=float) for c in ("N", "D", "loss"))


@pytest.fixture(scope="session")
def hoffmann() -> Surface:
    return HOFFMANN_PRINTED


@pytest.fixture(scope="session")
def hoffmann_tex() -> Surface:
    return HOFFMANN_TEX


@pytest.fixture(scope="session")
def besiroglu() -> Surface:
    return BESIROGLU


@pytest.fixture(scope="session")
def isoflop_frame():
    """A maker of isoFLOP tables: levels, sizes within a factor of the true optimum, noise."""

    def make(
        law: Surface,
        *,
        computes=(1e18, 10**18.5, 1e19, 10**19.5),
        sizes: int = 7,
        reach: float = 4.0,
        noise: float = 0.005,
        seed: int = 0,
        offset: float = 1.0,
    ) -> pd.DataFrame:
        rng = np.random.default_rng(seed)
        rows = []
        for level, C in enumerate(computes):
            centre = law.optimum(C).params * offset
            for N in centre * np.geomspace(1 / reach, reach, sizes):
                D = C / (6 * N)
                loss = float(law.loss(N, D)) * float(np.exp(noise * rng.standard_normal()))
                rows.append(
                    {
                        "trial_id": f"t{len(rows):03d}",
                        "level": level,
                        "params_matmul": N,
                        "tokens": D,
                        "flops": C,
                        "loss": loss,
                    }
                )
        return pd.DataFrame(rows)

    return make
