"""The feed-forward sub-layer: plain, gated, or a mixture of experts.

Shapes: N tokens, d width, f feed-forward width, E routed experts, k of them per token.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.shapes import Activation, ModelShape


class LearnedGELU(nn.Module):
    """gelu((x - mean) scale) with a learned mean and scale, at first 0 and 1."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(()))
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        """Apply elementwise."""
        return F.gelu((x - self.mean) * self.scale)


def make_activation(kind: Activation) -> nn.Module:
    """Build the non-linearity that a shape names; a gated one halves the last dimension.

    `gelu` is the exact one (Hendrycks & Gimpel 2016, arXiv 1606.08415); `swiglu` is
    silu(gate) * up (Shazeer 2020, arXiv 2002.05202), gate before up in the last dimension.
    """
    if kind == "swiglu":
        return _SwiGLU()
    if kind == "learned_gelu":
        return LearnedGELU()
    return {"relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU}[kind]()


class _SwiGLU(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        gate, up = x.chunk(2, dim=-1)
        return F.silu(gate) * up


class FeedForward(nn.Module):
    """act(x W_up) W_down; in the gated form W_up makes gate and up in one product."""

    def __init__(self, shape: ModelShape, *, d_ff: int, bias: bool, dropout: float = 0.0) -> None:
        super().__init__()
        widths = 2 if shape.activation == "swiglu" else 1
        self.up = nn.Linear(shape.d_model, widths * d_ff, bias=bias)
        self.activation = make_activation(shape.activation)
        self.down = nn.Linear(d_ff, shape.d_model, bias=bias)
        self.dropout = dropout

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., d] to [..., d]."""
        hidden = self.activation(self.up(x))
        if self.dropout > 0:
            hidden = F.dropout(hidden, self.dropout, self.training)
        return self.down(hidden)


class MixtureOfExperts(nn.Module):
    """Shared experts for every token and k of E routed ones (arXiv 2401.06066, equations 9 to 11).

    Tokens are sorted by expert, so that each expert computes its own tokens only. In training a
    forward pass leaves behind the auxiliary loss (Fedus et al. 2022, arXiv 2101.03961, equation
    4; a perfectly even router has k) and the load of each expert. With `balance = bias` a bias,
    which takes part in choosing experts but not in weighting them, is moved against the load
    after each step (Wang et al. 2024, arXiv 2408.15664).
    """

    choice_bias: Tensor
    load: Tensor

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        experts = shape.experts
        assert experts is not None
        self.sizes = experts
        widths = 2 if shape.activation == "swiglu" else 1
        e, d, f = experts.n_routed, shape.d_model, experts.d_expert
        self.router = nn.Parameter(torch.empty(e, d))
        self.up = nn.Parameter(torch.empty(e, widths * f, d))
        self.down = nn.Parameter(torch.empty(e, d, f))
        learned = e if shape.activation == "learned_gelu" else 1
        self.activations = nn.ModuleList(make_activation(shape.activation) for _ in range(learned))
        self.shared = None
        if experts.n_shared:
            self.shared = FeedForward(shape, d_ff=experts.n_shared * f, bias=False)
        self.register_buffer("choice_bias", torch.zeros(e))
        self.register_buffer("load", torch.zeros(e), persistent=False)
        self.auxiliary_loss = torch.zeros(())

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., d] to [..., d]."""
        tokens = x.reshape(-1, x.shape[-1])
        chosen, weights = self.route(tokens)
        out = self.experts(tokens, chosen, weights)
        if self.shared is not None:
            out = out + self.shared(tokens)
        return out.view(x.shape)

    def route(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Choose experts.

        Args:
            tokens: [N, d].

        Returns:
            Experts [N, k] and their weights [N, k]; the router's arithmetic is at least fp32.
        """
        sizes = self.sizes
        with torch.autocast(tokens.device.type, enabled=False):
            wide = torch.promote_types(tokens.dtype, torch.float32)
            logits = F.linear(tokens.to(wide), self.router.to(wide))
            if self.training and sizes.gumbel > 0:
                logits = logits + sizes.gumbel * _gumbel(logits)
            logits = logits / sizes.temperature
            scores = logits.softmax(-1) if sizes.router == "softmax" else logits.sigmoid()
            chosen = (scores + self.choice_bias).topk(sizes.top_k, dim=-1).indices
            weights = scores.gather(1, chosen)
            if sizes.normalise:
                weights = weights / weights.sum(-1, keepdim=True)
            if self.training:
                counts = torch.bincount(chosen.flatten(), minlength=sizes.n_routed)
                self.load += counts
                probabilities = scores / scores.sum(-1, keepdim=True)
                share = counts / chosen.shape[0]
                self.auxiliary_loss = sizes.n_routed * (share * probabilities.mean(0)).sum()
        return chosen, weights

    def experts(self, tokens: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
        """Weighted sum of the chosen experts' outputs, [N, d]."""
        order = chosen.flatten().argsort(stable=True)
        rows = order // self.sizes.top_k
        sorted_tokens = tokens[rows]
        counts = torch.bincount(chosen.flatten(), minlength=self.sizes.n_routed).tolist()
        outputs = []
        start = 0
        for expert, count in enumerate(counts):
            if count:
                activation = self.activations[expert % len(self.activations)]
                mine = sorted_tokens[start : start + count]
                outputs.append(
                    F.linear(activation(F.linear(mine, self.up[expert])), self.down[expert])
                )
            start += count
        weighted = torch.cat(outputs) * weights.flatten()[order, None].to(outputs[0].dtype)
        return torch.zeros_like(tokens).index_add(0, rows, weighted.to(tokens.dtype))

    def reset_tables(self) -> None:
        """Forget the load, after a loader has left it unset."""
        self.load.zero_()

    @torch.no_grad()
    def balance(self) -> None:
        """Move the choosing bias against the load since the last call, and forget the load."""
        if self.sizes.balance == "bias":
            self.choice_bias += self.sizes.balance_rate * (self.load.mean() - self.load).sign()
        self.load.zero_()


def _gumbel(like: Tensor) -> Tensor:
    # Uniform in (0, 1): the smallest positive float keeps both logarithms finite.
    uniform = torch.rand_like(like).clamp_(min=torch.finfo(like.dtype).tiny)
    return -(-uniform.log()).log()


def make_feed_forward(shape: ModelShape, *, dropout: float) -> FeedForward | MixtureOfExperts:
    """Build the feed-forward that a shape names."""
    if shape.experts is not None:
        return MixtureOfExperts(shape)
    return FeedForward(shape, d_ff=shape.d_ff, bias=shape.bias, dropout=dropout)
