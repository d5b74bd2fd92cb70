"""Laws of how a run was trained: on repeated data, to a point of its schedule, at a batch size.

    data_constrained  N, D, U  E + A N'^-alpha + B D'^-beta              (2305.16264, eqs. 5-7)
    schedule          S1, S2   L0 + A S1^-alpha - C S2                   (2408.11029, eq. 1)
    batch_steps       N, M, K  E + A N^-alpha + B M^-beta + C K^-gamma   (2607.01487)

U unique tokens, M batch tokens, K steps, S1 and S2 from `annealing_areas`.
"""

from __future__ import annotations

import numpy as np

from analysis.family import Family, Inputs
from analysis.laws import FloatArray

Value = tuple[FloatArray, tuple[FloatArray, ...]]


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


def optimal_batch(theta: FloatArray, D: FloatArray) -> FloatArray:
    """Batch M of least loss at D = M K tokens under `BATCH_STEPS`, in tokens, shaped like D.

    B M^-beta + C (D/M)^-gamma is least at M^(beta + gamma) = beta B D^gamma/(gamma C).

    Args:
        theta: parameters of `BATCH_STEPS`.
        D: tokens seen.
    """
    _, _, _, log_b, beta, log_c, gamma = theta
    log_m = np.log(beta / gamma) + log_b - log_c + gamma * np.log(D)
    return np.exp(log_m / (beta + gamma))


def _data_constrained(t: FloatArray, x: Inputs) -> Value:
    log_a, log_b, log_e, alpha, beta, r_tokens, r_params = t
    N, D, U = x["N"], x["D"], x["U"]
    params, tokens = effective_data(
        N,
        D,
        U,
        A=float(np.exp(log_a)),
        B=float(np.exp(log_b)),
        alpha=float(alpha),
        beta=float(beta),
        r_tokens=float(r_tokens),
        r_params=float(r_params),
    )
    floor = np.exp(log_e)
    size = np.exp(log_a - alpha * np.log(params))
    data = np.exp(log_b - beta * np.log(tokens))
    unique = np.minimum(U, D)
    repeats = np.maximum(D / unique - 1.0, 0.0)
    tokens_by_r = unique * _saturation_slope(repeats, r_tokens)
    # ln of the size that the unique tokens suffice for, where it is less than N.
    tilt = np.log(alpha / beta) + log_a - log_b
    log_fitting = (tilt + beta * np.log(unique)) / alpha
    held = log_fitting < np.log(N)
    fitting = np.where(held, np.exp(np.minimum(log_fitting, np.log(N))), N)
    excess = np.maximum(N / fitting - 1.0, 0.0)
    fading = np.exp(-excess / r_params)
    by_fitting = fitting * (1.0 + r_params * (1.0 - fading)) - N * fading
    drop = -alpha * size / params
    through = np.where(held, drop * by_fitting, 0.0) / alpha
    slopes = (
        size + through,
        data - through,
        floor * np.ones_like(size * data),
        -size * np.log(params) + through * (1.0 / alpha - log_fitting),
        -data * np.log(tokens) + through * (np.log(unique) - 1.0 / beta),
        -beta * data / tokens * tokens_by_r,
        drop * fitting * _saturation_slope(excess, r_params),
    )
    return floor + size + data, slopes


def _saturation_slope(amount: FloatArray, scale: float) -> FloatArray:
    """Derivative of scale (1 - exp(-amount/scale)) by the scale."""
    ratio = amount / scale
    return -np.expm1(-ratio) - ratio * np.exp(-ratio)


def _schedule(t: FloatArray, x: Inputs) -> Value:
    floor, A, alpha, C = t
    power = x["S1"] ** -alpha
    slopes = (np.ones_like(power), power, -A * power * np.log(x["S1"]), -x["S2"])
    return floor + A * power - C * x["S2"], slopes


def _batch_steps(t: FloatArray, x: Inputs) -> Value:
    E = t[0]
    slopes: list[FloatArray] = []
    loss = E
    for (log_c, power), name in zip((t[1:3], t[3:5], t[5:7]), ("N", "M", "K"), strict=True):
        term = np.exp(log_c - power * np.log(x[name]))
        loss = loss + term
        slopes += [term, -term * np.log(x[name])]
    return loss, (np.ones_like(loss), *slopes)


def _batch_steps_at(N: FloatArray, D: FloatArray, others: Inputs) -> dict[str, FloatArray]:
    """K = D/M steps of the given batch M."""
    if set(others) != {"M"}:
        raise ValueError(f"batch_steps needs the batch M held fixed; got {', '.join(others)}")
    return {"N": N, "M": others["M"], "K": D / others["M"]}


def _best_batch(theta: FloatArray, D: float) -> str:
    best = float(optimal_batch(theta, np.array(D)))
    return f"the law's best batch at {D:.3g} tokens is {best:.3g} tokens"


DATA_CONSTRAINED = Family(
    name="data_constrained",
    inputs=("N", "D", "U"),
    parameters=("ln A", "ln B", "ln E", "alpha", "beta", "R_D*", "R_N*"),
    formula=_data_constrained,
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
    shed=("R_N*", "R_D*", "alpha", "beta"),
)
SCHEDULE = Family(
    name="schedule",
    inputs=("S1", "S2"),
    parameters=("L0", "A", "alpha", "C"),
    formula=_schedule,
    published=(2.6, 0.5, 0.5, 0.3),
    low=(1e-6, 1e-6, 0.01, 0.0),
    high=(20.0, 1e4, 3.0, 1e4),
    source="Tissue et al. 2024 (2408.11029), eq. 1; the start is not published",
)
BATCH_STEPS = Family(
    name="batch_steps",
    inputs=("N", "M", "K"),
    parameters=("E", "ln A", "alpha", "ln B", "beta", "ln C", "gamma"),
    formula=_batch_steps,
    published=(1.8, 6.0, 0.35, 5.0, 0.5, 5.0, 0.5),
    low=(1e-6, -20.0, 0.01, -20.0, 0.01, -20.0, 0.01),
    high=(10.0, 40.0, 1.5, 40.0, 3.0, 40.0, 3.0),
    source="Schaipp et al. 2026 (2607.01487); the start is not published",
    at=_batch_steps_at,
    kept=("M",),
    remark=_best_batch,
)
