"""Other published laws, behind one interface: predict, Jacobian, fit, optimum along a cost curve.

A `Family` is a formula L(x; theta) over named inputs with published parameters as a start:

    kaplan            N, D       [(Nc/N)^(aN/aD) + Dc/D]^aD                (2001.08361, eq. 1.5)
    farseer           N, D       exp(s N^q + S) + exp(B N^b + Q) D^-exp(A N^a + E)   (2506.10972)
    overtraining      C, M       E + (a M^eta + b M^-eta) C^-eta, M = D/N  (2403.08540, eq. 4)
    data_constrained  N, D, U    E + A N'^-alpha + B D'^-beta              (2305.16264, eqs. 5-7)
    moe_experts       N, X       log10 L = a lg N + b lg X^ + c lg N lg X^ + d       (2202.01169)
    moe_granularity   N, D, G    c + (g/G^gamma + a) N^-alpha + b D^-beta  (2402.07871, eq. 9)
    moe_sparsity      N, D, S    e + a N^-alpha + b D^-beta + c (1-S)^-lambda
                                   + d (1-S)^-delta N^-gamma               (2501.12370, eq. 6)
    schedule          S1, S2     L0 + A S1^-alpha - C S2                   (2408.11029)
    batch_steps       N, M, K    E + A N^-alpha + B M^-beta + C K^-gamma   (2607.01487)

Kaplan's law has no floor and Farseer's needs a hundred runs: comparisons, not headlines. Inputs are
plain counts (X experts, G granularity, S sparsity = inactive share, U unique tokens, M batch
tokens, K steps, S1 and S2 from `annealing_areas`); published constants hold in each paper's own
loss unit. Jacobians are central differences: these fits are never the inner loop.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from scipy.optimize import least_squares, minimize_scalar

from analysis.laws import FloatArray, FlopsPerToken

Predict = Callable[[FloatArray, Mapping[str, FloatArray]], FloatArray]


@dataclass(frozen=True, kw_only=True)
class Family:
    """A law over named inputs."""

    name: str
    """Key in `FAMILIES`."""
    inputs: tuple[str, ...]
    """Names of the inputs, in the order of the formula."""
    parameters: tuple[str, ...]
    """Names of the parameters, in the order of theta."""
    predict: Predict
    """Loss from theta (p,) and inputs (arrays that broadcast)."""
    published: tuple[float, ...]
    """Published parameters: the start of every fit."""
    low: tuple[float, ...]
    """Lower limits of theta."""
    high: tuple[float, ...]
    """Upper limits of theta."""
    source: str
    """Paper and place of formula and constants."""

    def loss(self, theta: FloatArray, **inputs: FloatArray) -> FloatArray:
        """Predicted loss; inputs by name.

        Raises:
            ValueError: when an input is missing or unknown.
        """
        if set(inputs) != set(self.inputs):
            raise ValueError(
                f"{self.name} needs the inputs {', '.join(self.inputs)}; got {', '.join(inputs)}"
            )
        columns = {k: np.asarray(v, dtype=np.float64) for k, v in inputs.items()}
        return self.predict(np.asarray(theta, dtype=np.float64), columns)

    def jacobian(self, theta: FloatArray, **inputs: FloatArray) -> FloatArray:
        """D ln L/d theta by central differences, shape (m, p)."""
        theta = np.asarray(theta, dtype=np.float64)
        columns = []
        for j in range(len(theta)):
            step = 1e-6 * max(1.0, abs(theta[j]))
            shift = np.zeros(len(theta))
            shift[j] = step
            up, down = self.loss(theta + shift, **inputs), self.loss(theta - shift, **inputs)
            columns.append((np.log(up) - np.log(down)) / (2 * step))
        return np.stack(columns, axis=-1)


@dataclass(frozen=True, kw_only=True)
class FamilyFit:
    """A family fitted to runs."""

    family: Family
    """Which law."""
    theta: FloatArray
    """Fitted parameters, shape (p,)."""
    residuals: FloatArray
    """ln L_law - ln L, shape (m,)."""
    objective: float
    """Sum of Huber terms (or half squares)."""
    at_bound: tuple[str, ...]
    """Parameters that ended at a limit."""
    starts_agreeing: int
    """Starts that reached the best objective within a millionth."""

    @property
    def rms(self) -> float:
        """Root mean square residual in ln L."""
        return float(np.sqrt(np.mean(self.residuals**2)))


def fit_family(
    family: Family,
    L: FloatArray,
    *,
    huber_delta: float = np.inf,
    starts: int = 12,
    seed: int = 0,
    **inputs: FloatArray,
) -> FamilyFit:
    """Fit a family to losses, from its published parameters and random starts around them.

    Args:
        family: the law.
        L: losses, shape (m,).
        huber_delta: Huber width in ln L; infinity = least squares.
        starts: number of starts.
        seed: of the random starts.
        inputs: the family's inputs by name, shape (m,) each.

    Raises:
        ValueError: with fewer runs than parameters, or inputs that are missing or unknown.
    """
    L = np.asarray(L, dtype=np.float64)
    if len(L) < len(family.parameters):
        raise ValueError(
            f"{family.name} has {len(family.parameters)} parameters; got {len(L)} runs"
        )
    low, high = np.array(family.low), np.array(family.high)
    first = np.clip(np.array(family.published), low, high)
    rng = np.random.default_rng(seed)
    spread = 0.25 * np.maximum(np.abs(first), 0.05)

    def residual(theta: FloatArray) -> FloatArray:
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            value = np.log(np.maximum(family.loss(theta, **inputs), 1e-12)) - np.log(L)
        return np.nan_to_num(value, nan=30.0, posinf=30.0, neginf=-30.0)

    best, objectives = None, []
    for i in range(starts):
        start = first if i == 0 else first + spread * rng.standard_normal(len(first))
        found = least_squares(
            residual,
            np.clip(start, low + 1e-9, high - 1e-9),
            bounds=(low, high),
            x_scale=np.maximum(np.abs(first), 1e-2),
            loss="linear" if np.isinf(huber_delta) else "huber",
            f_scale=1.0 if np.isinf(huber_delta) else huber_delta,
            max_nfev=600,
        )
        objectives.append(float(found.cost))
        if best is None or found.cost < best.cost:
            best = found
    assert best is not None
    edge = (best.x <= low + 1e-7 * (high - low)) | (best.x >= high - 1e-7 * (high - low))
    return FamilyFit(
        family=family,
        theta=best.x,
        residuals=residual(best.x),
        objective=float(best.cost),
        at_bound=tuple(n for n, hit in zip(family.parameters, edge, strict=True) if hit),
        starts_agreeing=int(sum(o <= best.cost * (1 + 1e-6) + 1e-18 for o in objectives)),
    )


def optimum_along(
    family: Family,
    theta: FloatArray,
    C: float,
    flops_per_token: FlopsPerToken,
    *,
    low: float = 1e4,
    high: float = 1e14,
    **fixed: float,
) -> tuple[float, float, float]:
    """(N, D, L) of least loss along C = f(N) D, other inputs held fixed.

    Args:
        family: a law with inputs N and D (and others, given in `fixed`).
        theta: its parameters.
        C: compute, FLOPs.
        flops_per_token: f(N), in FLOPs.
        low: smallest N considered.
        high: largest N considered.
        fixed: other inputs by name, such as U or G.

    Raises:
        ValueError: when the law is not one of N and D.
    """
    if not {"N", "D"} <= set(family.inputs):
        raise ValueError(f"{family.name} has no inputs N and D: no optimum along a cost curve")

    def at(log_n: float) -> float:
        N = np.array([np.exp(log_n)])
        values = {k: np.array([v]) for k, v in fixed.items()}
        return float(family.loss(theta, N=N, D=C / flops_per_token(N), **values)[0])

    grid = np.linspace(np.log(low), np.log(high), 161)
    values = [at(x) for x in grid]
    j = int(np.argmin(values))
    ends = (float(grid[max(j - 1, 0)]), float(grid[min(j + 1, len(grid) - 1)]))
    found = minimize_scalar(at, bounds=ends, method="bounded", options={"xatol": 1e-9})
    N = float(np.exp(found.x))
    return N, C / float(flops_per_token(np.array([N]))[0]), float(found.fun)


def annealing_areas(
    learning_rate: FloatArray, *, decay: float = 0.999
) -> tuple[FloatArray, FloatArray]:
    """S1 and S2 of the schedule-aware law at every step (Tissue et al. 2024, eq. 1).

    S1 = sum_i eta_i;  S2 = sum_i m_i with m_i = decay m_(i-1) + (eta_(i-1) - eta_i).

    Args:
        learning_rate: eta per step, shape (n,).
        decay: memory of past annealing, 0.99 to 0.999.
    """
    eta = np.asarray(learning_rate, dtype=np.float64)
    momentum = np.zeros(len(eta))
    drops = -np.diff(eta, prepend=eta[:1])
    for i in range(1, len(eta)):
        momentum[i] = decay * momentum[i - 1] + drops[i]
    return np.cumsum(eta), np.cumsum(momentum)


def effective_data(
    N: FloatArray,
    D: FloatArray,
    U: FloatArray,
    *,
    A: float,
    B: float,
    alpha: float,
    beta: float,
    r_tokens: float,
    r_params: float,
) -> tuple[FloatArray, FloatArray]:
    """N' and D' of Muennighoff et al. 2023: what repeated tokens and excess parameters are worth.

    Args:
        N: parameters.
        D: tokens seen, repeats included.
        U: unique tokens.
        A: coefficient of N.
        B: coefficient of D.
        alpha: exponent of N.
        beta: exponent of D.
        r_tokens: R_D*, repetitions after which a token has lost 1 - 1/e of its value.
        r_params: R_N*, the same for excess parameters.
    """
    unique = np.minimum(U, D)
    repeats = np.maximum(D / unique - 1.0, 0.0)
    G = (alpha * A / (beta * B)) ** (1.0 / (alpha + beta))
    fitting = np.minimum(N, G * (unique * G) ** (beta / alpha))
    excess = np.maximum(N / fitting - 1.0, 0.0)
    tokens = unique + unique * r_tokens * -np.expm1(-repeats / r_tokens)
    params = fitting + fitting * r_params * -np.expm1(-excess / r_params)
    return params, tokens


def _kaplan(t: FloatArray, x: Mapping[str, FloatArray]) -> FloatArray:
    log_nc, log_dc, a_n, a_d = t
    first = (a_n / a_d) * (log_nc - np.log(x["N"]))
    return np.exp(a_d * np.logaddexp(first, log_dc - np.log(x["D"])))


def _farseer(t: FloatArray, x: Mapping[str, FloatArray]) -> FloatArray:
    s, q, S, B, b, Q, A, a, E = t
    N, log_d = x["N"], np.log(x["D"])
    return np.exp(s * N**q + S) + np.exp(B * N**b + Q - np.exp(A * N**a + E) * log_d)


def _overtraining(t: FloatArray, x: Mapping[str, FloatArray]) -> FloatArray:
    E, log_a, log_b, eta = t
    log_m = np.log(x["M"])
    mixed = np.logaddexp(log_a + eta * log_m, log_b - eta * log_m)
    return E + np.exp(mixed - eta * np.log(x["C"]))


def _data_constrained(t: FloatArray, x: Mapping[str, FloatArray]) -> FloatArray:
    log_a, log_b, log_e, alpha, beta, r_tokens, r_params = t
    params, tokens = effective_data(
        x["N"],
        x["D"],
        x["U"],
        A=float(np.exp(log_a)),
        B=float(np.exp(log_b)),
        alpha=float(alpha),
        beta=float(beta),
        r_tokens=float(r_tokens),
        r_params=float(r_params),
    )
    first = np.exp(log_a - alpha * np.log(params))
    return np.exp(log_e) + first + np.exp(log_b - beta * np.log(tokens))


def _moe_experts(t: FloatArray, x: Mapping[str, FloatArray]) -> FloatArray:
    a, b, c, d, start, limit = t
    first = 1.0 / (1.0 / start - 1.0 / limit)
    saturated = 1.0 / (1.0 / (x["X"] - 1.0 + first) + 1.0 / limit)
    log_n, log_x = np.log10(x["N"]), np.log10(saturated)
    return 10.0 ** (a * log_n + b * log_x + c * log_n * log_x + d)


def _moe_granularity(t: FloatArray, x: Mapping[str, FloatArray]) -> FloatArray:
    c, g, gamma, a, alpha, b, beta = t
    return c + (g / x["G"] ** gamma + a) * x["N"] ** -alpha + b * x["D"] ** -beta


def _moe_sparsity(t: FloatArray, x: Mapping[str, FloatArray]) -> FloatArray:
    e, log_a, alpha, log_b, beta, c, lam, log_d, delta, gamma = t
    active = np.log1p(-x["S"])
    log_n = np.log(x["N"])
    dense = np.exp(log_a - alpha * log_n) + np.exp(log_b - beta * np.log(x["D"]))
    return e + dense + c * np.exp(-lam * active) + np.exp(log_d - delta * active - gamma * log_n)


def _schedule(t: FloatArray, x: Mapping[str, FloatArray]) -> FloatArray:
    floor, A, alpha, C = t
    return floor + A * x["S1"] ** -alpha - C * x["S2"]


def _batch_steps(t: FloatArray, x: Mapping[str, FloatArray]) -> FloatArray:
    E, log_a, alpha, log_b, beta, log_c, gamma = t
    terms = ((log_a, alpha, "N"), (log_b, beta, "M"), (log_c, gamma, "K"))
    return E + sum(np.exp(coef - power * np.log(x[name])) for coef, power, name in terms)


KAPLAN = Family(
    name="kaplan",
    inputs=("N", "D"),
    parameters=("ln Nc", "ln Dc", "alpha_N", "alpha_D"),
    predict=_kaplan,
    published=(float(np.log(8.8e13)), float(np.log(5.4e13)), 0.076, 0.095),
    low=(5.0, 5.0, 0.005, 0.005),
    high=(90.0, 90.0, 1.5, 1.5),
    source="Kaplan et al. 2020 (2001.08361), eq. 1.5; N without embeddings; no loss floor",
)
FARSEER = Family(
    name="farseer",
    inputs=("N", "D"),
    parameters=("s", "q", "S", "B", "b", "Q", "A", "a", "E"),
    predict=_farseer,
    published=(
        -0.062465473,
        0.13,
        0.12848807,
        230.73437,
        -0.1729,
        -1.5442096,
        -1.6656308,
        0.0459,
        3.1333472,
    ),
    low=(-5.0, 0.001, -5.0, 0.1, -1.0, -20.0, -20.0, 0.001, -5.0),
    high=(0.0, 1.0, 5.0, 2000.0, -0.01, 10.0, 5.0, 0.5, 15.0),
    source="Li et al. 2025 (2506.10972); bits per character; N without vocabulary, 1e8 to 2.5e10",
)
OVERTRAINING = Family(
    name="overtraining",
    inputs=("C", "M"),
    parameters=("E", "ln a", "ln b", "eta"),
    predict=_overtraining,
    published=(1.8, 4.0, 5.5, 0.14),
    low=(1e-6, -20.0, -20.0, 0.01),
    high=(10.0, 40.0, 40.0, 1.0),
    source="Gadre et al. 2024 (2403.08540), eq. 4; the start is not published",
)
DATA_CONSTRAINED = Family(
    name="data_constrained",
    inputs=("N", "D", "U"),
    parameters=("ln A", "ln B", "ln E", "alpha", "beta", "R_D*", "R_N*"),
    predict=_data_constrained,
    published=(
        6.255414,
        7.3049974,
        0.6254804,
        0.3526596,
        0.3526596,
        15.387756,
        5.309743,
    ),
    low=(-5.0, -5.0, -10.0, 0.02, 0.02, 0.1, 0.1),
    high=(40.0, 40.0, 2.0, 1.5, 1.5, 1e4, 1e4),
    source="Muennighoff et al. 2023 (2305.16264), C4; alpha = beta imposed there",
)
MOE_EXPERTS = Family(
    name="moe_experts",
    inputs=("N", "X"),
    parameters=("a", "b", "c", "d", "X_start", "X_max"),
    predict=_moe_experts,
    published=(-0.082, -0.108, 0.009, 1.104, 1.847, 314.5),
    low=(-1.0, -2.0, -0.5, -2.0, 0.2, 20.0),
    high=(0.0, 2.0, 0.5, 5.0, 20.0, 1e5),
    source="Clark et al. 2022 (2202.01169), table 3, S-BASE; N of the dense base, X experts",
)
MOE_GRANULARITY = Family(
    name="moe_granularity",
    inputs=("N", "D", "G"),
    parameters=("c", "g", "gamma", "a", "alpha", "b", "beta"),
    predict=_moe_granularity,
    published=(0.47, 2.1, 0.58, 18.1, 0.115, 30.8, 0.147),
    low=(1e-6, 0.0, 0.01, 1e-3, 0.01, 1e-3, 0.01),
    high=(10.0, 1e4, 5.0, 1e6, 1.5, 1e7, 1.5),
    source="Krajewski et al. 2024 (2402.07871); N total, 64-fold expansion",
)
MOE_SPARSITY = Family(
    name="moe_sparsity",
    inputs=("N", "D", "S"),
    parameters=("e", "ln a", "alpha", "ln b", "beta", "c", "lambda", "ln d", "delta", "gamma"),
    predict=_moe_sparsity,
    published=(1.0, 6.0, 0.35, 7.5, 0.35, 0.1, -0.5, 1.0, 0.3, 0.2),
    low=(1e-6, -10.0, 0.01, -10.0, 0.01, 0.0, -5.0, -20.0, -2.0, 0.0),
    high=(5.0, 40.0, 1.5, 40.0, 1.5, 10.0, 0.0, 20.0, 2.0, 1.5),
    source="Abnar et al. 2025 (2501.12370), eq. 6; N total; the start is not published",
)
SCHEDULE = Family(
    name="schedule",
    inputs=("S1", "S2"),
    parameters=("L0", "A", "alpha", "C"),
    predict=_schedule,
    published=(2.6, 0.5, 0.5, 0.3),
    low=(1e-6, 1e-6, 0.01, 0.0),
    high=(20.0, 1e4, 3.0, 1e4),
    source="Tissue et al. 2024 (2408.11029), eq. 1; the start is not published",
)
BATCH_STEPS = Family(
    name="batch_steps",
    inputs=("N", "M", "K"),
    parameters=("E", "ln A", "alpha", "ln B", "beta", "ln C", "gamma"),
    predict=_batch_steps,
    published=(1.8, 6.0, 0.35, 5.0, 0.5, 5.0, 0.5),
    low=(1e-6, -20.0, 0.01, -20.0, 0.01, -20.0, 0.01),
    high=(10.0, 40.0, 1.5, 40.0, 3.0, 40.0, 3.0),
    source="Schaipp et al. 2026 (2607.01487); the start is not published",
)
FAMILIES = {
    family.name: family
    for family in (
        KAPLAN,
        FARSEER,
        OVERTRAINING,
        DATA_CONSTRAINED,
        MOE_EXPERTS,
        MOE_GRANULARITY,
        MOE_SPARSITY,
        SCHEDULE,
        BATCH_STEPS,
    )
}
"""Every family by name."""
