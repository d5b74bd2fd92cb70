"""Published compute-optimal ratios, as functions of compute, with what their N and D count.

In: C, FLOPs. Out: D/N. The numbers come from papers on other data, other tokenizers and other
counting rules: they are landmarks on a picture, not a truth to agree with.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from analysis.laws import Surface

HOFFMANN_3 = Surface(
    E=math.exp(0.5267228),
    A=math.exp(6.0073404),
    B=math.exp(6.0179186),
    alpha=0.33917084,
    beta=0.2849083,
)
"""Hoffmann et al. 2022, Approach 3, with the unrounded constants of the paper's TeX source.

The rounded constants of the paper move D/N at 5.76e23 FLOPs from 59 to 93: they are not used.
"""
BESIROGLU = Surface(E=1.8172, A=482.01, B=2085.43, alpha=0.3478, beta=0.3658)
"""Besiroglu et al. 2024, the re-fit of Hoffmann's Approach 3."""
CHINCHILLA_RULE = 20.0
"""Tokens per parameter by Hoffmann et al. 2022, Approaches 1 and 2."""
BYTES_PER_BPE_TOKEN = 4.0
"""English text: 4 to 4.8 bytes per token for vocabularies of 32k to 100k."""
_PF_DAY = 8.64e19
_KAPLAN_PARAMS, _KAPLAN_EXPONENT = 1.3e9, 0.73


@dataclass(frozen=True, kw_only=True)
class PublishedLaw:
    """One published answer to the question of the best D/N."""

    key: str
    """Citation key in `BIBTEX`."""
    name: str
    """Short name, for a label."""
    ratio: Callable[[float], float]
    """D/N at a compute in FLOPs, in the paper's own tokens."""
    counts: str
    """What N and C count in it."""
    note: str
    """What a reader must know before comparing."""


def _kaplan(flops: float) -> float:
    """D/N by N = 1.3e9 (C/PF-day)^0.73 (Kaplan et al. 2020, section 6) with D = C/(6N)."""
    params = _KAPLAN_PARAMS * (flops / _PF_DAY) ** _KAPLAN_EXPONENT
    return flops / (6.0 * params * params)


PUBLISHED = (
    PublishedLaw(
        key="hoffmann2022",
        name="Hoffmann 1, 2 (20)",
        ratio=lambda flops: CHINCHILLA_RULE,
        counts="all parameters, C = 6ND",
        note="fitted at 6×10¹⁸ to 3×10²¹ FLOPs; less than one pass over the data",
    ),
    PublishedLaw(
        key="hoffmann2022",
        name="Hoffmann 3",
        ratio=lambda flops: HOFFMANN_3.optimum(flops).tokens_per_parameter,
        counts="all parameters, C = 6ND",
        note="its printed fit contradicts the paper's own Approaches 1 and 2",
    ),
    PublishedLaw(
        key="besiroglu2024",
        name="Besiroglu",
        ratio=lambda flops: BESIROGLU.optimum(flops).tokens_per_parameter,
        counts="all parameters, C = 6ND",
        note="re-fit of Hoffmann's data; agrees with 20 at the scale of Chinchilla",
    ),
    PublishedLaw(
        key="kaplan2020",
        name="Kaplan",
        ratio=_kaplan,
        counts="parameters without embeddings, no output head in C",
        note="one learning-rate schedule for all lengths; since shown to mislead",
    ),
)
"""The landmarks, in the order in which they are listed."""

BIBTEX = """\
@article{kaplan2020,
  title = {Scaling Laws for Neural Language Models},
  author = {Kaplan, Jared and McCandlish, Sam and Henighan, Tom and Brown, Tom B. and
            Chess, Benjamin and Child, Rewon and Gray, Scott and Radford, Alec and
            Wu, Jeffrey and Amodei, Dario},
  year = {2020},
  eprint = {2001.08361},
  archivePrefix = {arXiv}
}

@article{hoffmann2022,
  title = {Training Compute-Optimal Large Language Models},
  author = {Hoffmann, Jordan and Borgeaud, Sebastian and Mensch, Arthur and others},
  year = {2022},
  eprint = {2203.15556},
  archivePrefix = {arXiv}
}

@article{besiroglu2024,
  title = {Chinchilla Scaling: A replication attempt},
  author = {Besiroglu, Tamay and Erdil, Ege and Barnett, Matthew and You, Josh},
  year = {2024},
  eprint = {2404.10102},
  archivePrefix = {arXiv}
}

@article{porian2024,
  title = {Resolving Discrepancies in Compute-Optimal Scaling of Language Models},
  author = {Porian, Tomer and Wortsman, Mitchell and Jitsev, Jenia and Schmidt, Ludwig and
            Carmon, Yair},
  year = {2024},
  eprint = {2406.19146},
  archivePrefix = {arXiv}
}
"""
"""BibTeX entries of the works that a report names."""
