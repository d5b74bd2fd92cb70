"""A trained model as a folder that `transformers` loads and generates from.

GPT-2-like and Llama-like shapes become `GPT2LMHeadModel` and `LlamaForCausalLM`, which need nothing
of ours. Every other shape becomes `IsosweepForCausalLM`, which `AutoModelForCausalLM` finds once
this module has been imported.
"""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    GenerationMixin,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.modeling_outputs import CausalLMOutput
from transformers.utils.logging import disable_progress_bar

from trainer.model.attention import CausalAttention, LatentCausalAttention
from trainer.model.feedforward import MixtureOfExperts
from trainer.model.foreign import ForeignModel
from trainer.model.language_model import LanguageModel
from trainer.model.norm import EPS
from trainer.model.position import ROTARY_BASE
from trainer.model.transformer import Transformer
from trainer.shapes import ModelShape

_WITH_TABLES = (Transformer, CausalAttention, LatentCausalAttention, MixtureOfExperts)
_GPT2_ACTIVATIONS = ("gelu", "relu", "silu")


class IsosweepConfig(PreTrainedConfig):
    """Configuration of a model of ours inside `transformers`."""

    model_type = "isosweep"

    def __init__(self, shape: dict[str, Any] | None = None, **settings: Any) -> None:
        """Keep the shape.

        Args:
            shape: `dataclasses.asdict` of a `ModelShape`.
            **settings: what every configuration of `transformers` takes.
        """
        self.shape = shape or {}
        if shape:
            settings.setdefault("vocab_size", shape["vocab_size"])
            settings.setdefault("num_hidden_layers", shape["n_layer"])
        super().__init__(**settings)


class IsosweepForCausalLM(PreTrainedModel, GenerationMixin):
    """A model of ours behind the interface of `transformers`; it generates without a cache."""

    config_class = IsosweepConfig
    base_model_prefix = "model"
    main_input_name = "input_ids"

    def __init__(self, config: IsosweepConfig) -> None:
        """Build the model with fresh weights."""
        super().__init__(config)
        self.model = Transformer(ModelShape.from_record(config.shape), seed=0, backend="sdpa")
        self.post_init()

    def _init_weights(self, module: torch.nn.Module) -> None:
        """Compute what is not stored; weights are drawn by the model itself."""
        if isinstance(module, _WITH_TABLES):
            module.reset_tables()

    def get_input_embeddings(self) -> torch.nn.Module:
        """Unsupported: the embedding is a plain parameter.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError("the embedding of this model is a plain parameter")

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        **_: Any,
    ) -> CausalLMOutput:
        """Logits [B, T, V] of ids [B, T], and the loss where labels (unshifted) are given.

        Raises:
            ValueError: when a position is masked: padding is not supported.
        """
        if attention_mask is not None and not attention_mask.all():
            raise ValueError("this model takes no padding: pass prompts of one length")
        logits = self.model(input_ids)
        loss = None
        if labels is not None:
            loss = F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten())
        return CausalLMOutput(loss=loss, logits=logits)

    def prepare_inputs_for_generation(  # type: ignore[override]
        self, input_ids: Tensor, attention_mask: Tensor | None = None, **_: Any
    ) -> dict[str, Tensor | None]:
        """The last tokens that fit the context."""
        context = self.model.shape.context
        mask = None if attention_mask is None else attention_mask[:, -context:]
        return {"input_ids": input_ids[:, -context:], "attention_mask": mask}


AutoConfig.register("isosweep", IsosweepConfig)
AutoModelForCausalLM.register(IsosweepConfig, IsosweepForCausalLM)


def export(model: LanguageModel, folder: Path, *, tokenizer_dir: Path | None = None) -> str:
    """Write a model as a `transformers` folder.

    Args:
        model: the trained model.
        folder: created when missing.
        tokenizer_dir: files of the tokenizer, copied beside the model.

    Returns:
        Name of the class that the folder loads as.

    Raises:
        ValueError: for a module of the user's that is no model of `transformers`.
    """
    exported = _exported(model)
    exported.generation_config.eos_token_id = None
    exported.generation_config.bos_token_id = None
    disable_progress_bar()
    exported.save_pretrained(folder)
    if tokenizer_dir is not None:
        shutil.copytree(tokenizer_dir, folder, dirs_exist_ok=True)
    return type(exported).__name__


def _exported(model: LanguageModel) -> PreTrainedModel:
    if isinstance(model, ForeignModel):
        if not isinstance(model.module, PreTrainedModel):
            raise ValueError(
                "only models of transformers can be exported for it, got a "
                f"{type(model.module).__name__} of {model.shape.family}; its weights are in the "
                "trial's checkpoints"
            )
        return model.module
    assert isinstance(model, Transformer)
    if is_gpt2(model.shape):
        exported: PreTrainedModel = _to_gpt2(model)
    elif is_llama(model.shape):
        exported = _to_llama(model)
    else:
        exported = IsosweepForCausalLM(IsosweepConfig(shape=dataclasses.asdict(model.shape)))
        exported.model.load_state_dict(model.state_dict())
    return exported


def is_gpt2(shape: ModelShape) -> bool:
    """Whether `GPT2LMHeadModel` computes the same function."""
    plain = shape.latent is None and shape.experts is None and shape.residual == "stream"
    biased = shape.bias and shape.has_qkv_bias and not shape.head_bias
    return (
        plain
        and biased
        and shape.position == "learned"
        and shape.norm == "layernorm"
        and shape.activation in _GPT2_ACTIVATIONS
        and shape.n_kv_head == shape.n_head
    )


def is_llama(shape: ModelShape) -> bool:
    """Whether `LlamaForCausalLM` computes the same function."""
    plain = shape.latent is None and shape.experts is None and shape.residual == "stream"
    biased = shape.bias or shape.has_qkv_bias or shape.head_bias
    return (
        plain
        and not biased
        and shape.position == "rotary"
        and shape.rotary_layout == "half"
        and shape.norm == "rmsnorm"
        and shape.activation == "swiglu"
    )


def _to_gpt2(model: Transformer) -> GPT2LMHeadModel:
    shape = model.shape
    config = GPT2Config(
        vocab_size=shape.vocab_size,
        n_positions=shape.context,
        n_embd=shape.d_model,
        n_layer=shape.n_layer,
        n_head=shape.n_head,
        n_inner=shape.d_ff,
        activation_function=shape.activation,
        layer_norm_epsilon=EPS,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=None,
        eos_token_id=None,
        tie_word_embeddings=shape.tied_head,
    )
    ours = model.state_dict()
    theirs = {
        "transformer.wte.weight": ours["embedding"],
        "transformer.wpe.weight": ours["positions"],
        "transformer.ln_f.weight": ours["norm.weight"],
        "transformer.ln_f.bias": ours["norm.bias"],
        "lm_head.weight": model.head_weight.detach(),
    }
    # GPT-2 keeps its matrices transposed.
    names = {
        "attention_norm": ("ln_1", False),
        "attention.qkv": ("attn.c_attn", True),
        "attention.out": ("attn.c_proj", True),
        "feed_forward_norm": ("ln_2", False),
        "feed_forward.up": ("mlp.c_fc", True),
        "feed_forward.down": ("mlp.c_proj", True),
    }
    for layer in range(shape.n_layer):
        for name, (their_name, transposed) in names.items():
            weight = ours[f"blocks.{layer}.{name}.weight"]
            place = f"transformer.h.{layer}.{their_name}"
            theirs[f"{place}.weight"] = weight.t() if transposed else weight
            theirs[f"{place}.bias"] = ours[f"blocks.{layer}.{name}.bias"]
    exported = GPT2LMHeadModel(config)
    exported.load_state_dict(theirs)
    return exported


def _to_llama(model: Transformer) -> LlamaForCausalLM:
    shape = model.shape
    config = LlamaConfig(
        vocab_size=shape.vocab_size,
        max_position_embeddings=shape.context,
        hidden_size=shape.d_model,
        num_hidden_layers=shape.n_layer,
        num_attention_heads=shape.n_head,
        num_key_value_heads=shape.n_kv_head,
        head_dim=shape.d_head,
        intermediate_size=shape.d_ff,
        rms_norm_eps=EPS,
        rope_parameters={"rope_type": "default", "rope_theta": ROTARY_BASE},
        bos_token_id=None,
        eos_token_id=None,
        tie_word_embeddings=shape.tied_head,
    )
    ours = model.state_dict()
    theirs = {
        "model.embed_tokens.weight": ours["embedding"],
        "model.norm.weight": ours["norm.weight"],
        "lm_head.weight": model.head_weight.detach(),
    }
    kv = shape.n_kv_head * shape.d_head
    for layer in range(shape.n_layer):
        block, place = f"blocks.{layer}", f"model.layers.{layer}"
        q, k, v = ours[f"{block}.attention.qkv.weight"].split((shape.d_attn, kv, kv))
        gate, up = ours[f"{block}.feed_forward.up.weight"].split(shape.d_ff)
        theirs |= {
            f"{place}.input_layernorm.weight": ours[f"{block}.attention_norm.weight"],
            f"{place}.self_attn.q_proj.weight": q,
            f"{place}.self_attn.k_proj.weight": k,
            f"{place}.self_attn.v_proj.weight": v,
            f"{place}.self_attn.o_proj.weight": ours[f"{block}.attention.out.weight"],
            f"{place}.post_attention_layernorm.weight": ours[f"{block}.feed_forward_norm.weight"],
            f"{place}.mlp.gate_proj.weight": gate,
            f"{place}.mlp.up_proj.weight": up,
            f"{place}.mlp.down_proj.weight": ours[f"{block}.feed_forward.down.weight"],
        }
    exported = LlamaForCausalLM(config)
    exported.load_state_dict(theirs)
    return exported
