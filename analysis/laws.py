"""Scaling laws of two variables, L(N, D), behind one interface.

Two surfaces share every closed form of the compute-optimal frontier:

    Chinchilla  L = E + A N^-alpha + B D^-beta              (Hoffmann et al. 2022, eq. 2)
    Skaling     L = E + (A N^-alpha + B D^-beta)^k          (Videau et al. 2026, arXiv 2608.07222)

because a monotone function of A N^-alpha + B D^-beta has the same minimum along any cost curve.
A `Surface` is a law with numbers. A `LawForm` is a law as the fitting sees it: ln L as a function
of linear forms of the parameters

    z_A = a - alpha n,  z_B = b - beta d,  e = ln E,  kappa = ln k

with n = ln N - n0, d = ln D - d0 centred logs, a = ln A - alpha n0, b = ln B - beta d0: centring
brings the condition number of the Gauss-Newton matrix from 5e6 to about 4e3 on published data.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import expit

FloatArray = np.ndarray
FloatLike = float | np.ndarray
"""A number or an array of them."""
FlopsPerToken = Callable[[FloatArray], FloatArray]
"""Training FLOPs per token as a function of N (array in, array out)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Optimum:
    """The compute-optimal point of a law at one compute."""

    flops: float
    """C, FLOPs."""
    params: float
    """N that minimises the loss at C."""
    tokens: float
    """D that goes with it along the cost curve."""
    loss: float
    """L there; NaN when the law gives none."""

    @property
    def tokens_per_parameter(self) -> float:
        """D/N at the optimum."""
        return self.tokens / self.params


@dataclass(frozen=True, kw_only=True, slots=True)
class Surface:
    """A two-variable law with its numbers: L = E + (A N^-alpha + B D^-beta)^k."""

    E: float
    """Irreducible loss."""
    A: float
    """Coefficient of the parameter term."""
    B: float
    """Coefficient of the token term."""
    alpha: float
    """Exponent of N."""
    beta: float
    """Exponent of D."""
    k: float = 1.0
    """Outer exponent: 1 is Chinchilla's law, any other value Skaling's."""

    def __post_init__(self) -> None:
        values = (self.E, self.A, self.B, self.alpha, self.beta, self.k)
        if not all(map(math.isfinite, values)):
            raise ValueError(f"a law's parameters must be finite, got {values}")
        if min(values[1:]) <= 0 or self.E < 0:
            raise ValueError(f"E must be >= 0 and A, B, alpha, beta, k > 0, got {values}")

    def inner(self, N: FloatLike, D: FloatLike) -> FloatArray:
        """A N^-alpha + B D^-beta, broadcast over N and D."""
        N, D = np.asarray(N, dtype=np.float64), np.asarray(D, dtype=np.float64)
        return np.exp(math.log(self.A) - self.alpha * np.log(N)) + np.exp(
            math.log(self.B) - self.beta * np.log(D)
        )

    def loss(self, N: FloatLike, D: FloatLike) -> FloatArray:
        """L(N, D), broadcast over N (parameters) and D (tokens)."""
        return self.E + self.inner(N, D) ** self.k

    @property
    def exponent_N(self) -> float:
        """A of N_opt ~ C^a under C = 6ND: beta/(alpha + beta)."""
        return self.beta / (self.alpha + self.beta)

    @property
    def exponent_D(self) -> float:
        """B of D_opt ~ C^b under C = 6ND: alpha/(alpha + beta)."""
        return self.alpha / (self.alpha + self.beta)

    @property
    def log_G(self) -> float:
        """Ln G, where N_opt = G (C/6)^a and G = (alpha A/(beta B))^(1/(alpha + beta))."""
        numerator = math.log(self.alpha * self.A / self.beta) - math.log(self.B)
        return numerator / (self.alpha + self.beta)

    def optimum(self, C: float) -> Optimum:
        """Closed-form optimum under C = 6ND (Hoffmann et al. 2022, eq. 4).

        Degenerate exponents would put it at sizes beyond any float: N is kept between 1 and C/6.
        """
        log_c = math.log(C / 6.0)
        log_n = min(max(self.log_G + self.exponent_N * log_c, 0.0), log_c)
        N, D = math.exp(log_n), math.exp(log_c - log_n)
        return Optimum(flops=C, params=N, tokens=D, loss=float(self.loss(N, D)))

    def optimum_along(self, C: float, flops_per_token: FlopsPerToken) -> Optimum:
        """Optimum along a real cost curve C = f(N) D, by bounded search in ln N."""
        centre = math.log(self.optimum(C).params)

        def excess(log_n: float) -> float:
            N = math.exp(log_n)
            return math.log(self.inner(N, C / float(flops_per_token(np.asarray(N)))))

        grid = np.linspace(centre - 7.0, centre + 7.0, 57)
        best = int(np.argmin([excess(x) for x in grid]))
        low, high = grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)]
        found = minimize_scalar(
            excess, bounds=(float(low), float(high)), method="bounded", options={"xatol": 1e-10}
        )
        N = math.exp(float(found.x))
        D = C / float(flops_per_token(np.asarray(N)))
        return Optimum(flops=C, params=N, tokens=D, loss=float(self.loss(N, D)))

    def compute_waste(self, ratio_error: FloatLike) -> FloatArray:
        """Share of compute wasted when D/N is off by a factor, at any fixed C = 6ND.

        With x = -ln(factor)/2 the shift of ln N, the inner sum grows by
        (beta e^(-alpha x) + alpha e^(beta x))/(alpha + beta) over the optimum's, which the optimum
        reaches with that power -(alpha + beta)/(alpha beta) of the compute.
        """
        shift = -0.5 * np.log(np.asarray(ratio_error, dtype=np.float64))
        growth = self.beta * np.exp(-self.alpha * shift) + self.alpha * np.exp(self.beta * shift)
        power = (self.alpha + self.beta) / (self.alpha * self.beta)
        return 1.0 - (growth / (self.alpha + self.beta)) ** -power


@dataclass(frozen=True, kw_only=True, slots=True)
class Derivatives:
    """ln L and its derivatives in the channels (z_A, z_B, e, kappa), each shaped like z_A."""

    value: FloatArray
    """ln L."""
    first: tuple[FloatArray, ...]
    """d ln L / d channel, one array per channel of the form."""
    second: dict[tuple[int, int], FloatArray]
    """d2 ln L / d channel d channel, upper triangle; missing pairs are zero."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LawForm:
    """A law as the fitting sees it, with parameters theta = (a, b, e, alpha, beta[, kappa])."""

    name: str
    """`chinchilla` or `skaling`."""
    n_params: int
    """Length of theta."""

    @property
    def parameter_names(self) -> tuple[str, ...]:
        """Names of the entries of theta, in centred coordinates."""
        return ("a", "b", "e", "alpha", "beta", "kappa")[: self.n_params]

    def channels(
        self, z_a: FloatArray, z_b: FloatArray, e: FloatArray, kappa: FloatArray
    ) -> Derivatives:
        """Ln L with first and second derivatives in the channels; inputs broadcast."""
        if self.n_params == 5:
            return _chinchilla_channels(z_a, z_b, e)
        return _skaling_channels(z_a, z_b, e, kappa)

    def log_loss(self, theta: FloatArray, n: FloatArray, d: FloatArray) -> FloatArray:
        """Ln L at centred logs n, d.

        Args:
            theta: parameters, shape (..., n_params).
            n: centred ln N, shape (m,).
            d: centred ln D, shape (m,).

        Returns:
            ln L, shape (..., m).
        """
        z_a, z_b, e, kappa = linear_forms(theta, n, d)
        inner = np.logaddexp(z_a, z_b)
        if self.n_params == 6:
            inner = np.exp(kappa) * inner
        return np.logaddexp(inner, e)

    def jacobian(self, theta: FloatArray, n: FloatArray, d: FloatArray) -> FloatArray:
        """Analytic d ln L / d theta; shapes as in `log_loss`, result (..., m, n_params)."""
        z_a, z_b, e, kappa = linear_forms(theta, n, d)
        first = self.channels(z_a, z_b, e, kappa).first
        columns = [first[0], first[1], first[2], -first[0] * n, -first[1] * d, *first[3:]]
        return np.stack(np.broadcast_arrays(*columns), axis=-1)

    def to_surface(self, theta: FloatArray, *, centre: tuple[float, float]) -> Surface:
        """The surface at centred parameters theta, shape (n_params,); centre = (n0, d0)."""
        a, b, e, alpha, beta = (float(v) for v in theta[:5])
        return Surface(
            E=math.exp(e),
            A=math.exp(a + alpha * centre[0]),
            B=math.exp(b + beta * centre[1]),
            alpha=alpha,
            beta=beta,
            k=math.exp(float(theta[5])) if self.n_params == 6 else 1.0,
        )

    def to_theta(self, surface: Surface, *, centre: tuple[float, float]) -> FloatArray:
        """Inverse of `to_surface`; shape (n_params,)."""
        theta = [
            math.log(surface.A) - surface.alpha * centre[0],
            math.log(surface.B) - surface.beta * centre[1],
            math.log(surface.E) if surface.E > 0 else -math.inf,
            surface.alpha,
            surface.beta,
            math.log(surface.k),
        ]
        return np.array(theta[: self.n_params])


CHINCHILLA = LawForm(name="chinchilla", n_params=5)
"""L = E + A N^-alpha + B D^-beta."""
SKALING = LawForm(name="skaling", n_params=6)
"""L = E + (A N^-alpha + B D^-beta)^k."""
FORMS = {form.name: form for form in (CHINCHILLA, SKALING)}
"""The surface laws by name."""


def linear_forms(
    theta: FloatArray, n: FloatArray, d: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """z_A, z_B of shape (..., m) and e, kappa of shape (..., 1) from theta (..., p)."""
    part = [theta[..., j, None] for j in range(theta.shape[-1])]
    kappa = part[5] if len(part) == 6 else np.zeros_like(part[2])
    return part[0] - part[3] * n, part[1] - part[4] * d, part[2], kappa


def _chinchilla_channels(z_a: FloatArray, z_b: FloatArray, e: FloatArray) -> Derivatives:
    top = np.maximum(np.maximum(z_a, z_b), e)
    p_a, p_b, p_e = np.exp(z_a - top), np.exp(z_b - top), np.exp(e - top)
    total = p_a + p_b + p_e
    p_a /= total
    p_b /= total
    p_e = p_e / total
    return Derivatives(
        value=top + np.log(total),
        first=(p_a, p_b, p_e),
        second={
            (0, 0): p_a * (1 - p_a),
            (0, 1): -p_a * p_b,
            (0, 2): -p_a * p_e,
            (1, 1): p_b * (1 - p_b),
            (1, 2): -p_b * p_e,
            (2, 2): p_e * (1 - p_e),
        },
    )


def _skaling_channels(
    z_a: FloatArray, z_b: FloatArray, e: FloatArray, kappa: FloatArray
) -> Derivatives:
    k = np.exp(kappa)
    inner = np.logaddexp(z_a, z_b)
    h = k * inner
    share = expit(z_a - z_b)
    q = expit(h - e)
    h_a, h_b, h_k = k * share, k * (1 - share), h
    bend = q * (1 - q)
    cross = q * k * share * (1 - share)
    return Derivatives(
        value=np.logaddexp(h, e),
        first=(q * h_a, q * h_b, 1 - q, q * h_k),
        second={
            (0, 0): bend * h_a * h_a + cross,
            (0, 1): bend * h_a * h_b - cross,
            (0, 2): -bend * h_a,
            (0, 3): bend * h_a * h_k + q * h_a,
            (1, 1): bend * h_b * h_b + cross,
            (1, 2): -bend * h_b,
            (1, 3): bend * h_b * h_k + q * h_b,
            (2, 2): bend,
            (2, 3): -bend * h_k,
            (3, 3): bend * h_k * h_k + q * h_k,
        },
    )
