"""The commented budget file that `sweep init` writes."""

from __future__ import annotations

from dataclasses import dataclass

TEMPLATE = """\
# A budget for `sweep run`. Everything but `name` and `budget` has a default;
# `sweep plan --show-defaults {file}` prints them all.
name: {name}

budget:
  {amount}            # or flops: 1e18, gpu_hours: 24, cpu_hours: 1, gpus: 8 + wall_clock: 24h
  # price_per_hour: 2.50       # for the quotation

data:
  corpus: {corpus}           # embedded (this Python's own source), a path, glob or list of text,
                             # jsonl or parquet files, or a Hugging Face dataset name
  tokenizer: {tokenizer}            # byte, char, bpe:4096, or a Hugging Face name or local folder

model:
  family: llama              # or gpt
  context: {context}

training:
  batch_tokens: {batch_tokens}

design:
  levels: {levels}                  # compute levels, about a factor of 3 apart
  sizes: 5                   # model sizes per level
  span: 3                    # from centre / 3 to centre * 3
  tokens_per_parameter: {ratio}  # centre of the first level: about 20 for BPE tokens, 150 for bytes

# target:
#   flops: 1e20              # the run you are about to pay for; default: 10 times the largest level
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """What `sweep init` asks a person."""

    key: str
    """Argument of `example` that the answer is."""
    text: str
    """The question."""
    examples: str
    """Answers to choose from."""
    default: str
    """Answer when nothing is typed."""


QUESTIONS = (
    Question(
        key="amount",
        text="How much may the sweep spend?",
        examples="cpu_hours: 0.5, gpu_hours: 24, flops: 1e18",
        default="cpu_hours: 0.2",
    ),
    Question(
        key="corpus",
        text="What should the models learn from?",
        examples="embedded (this Python's own source), a path, a Hugging Face data set",
        default="embedded",
    ),
    Question(
        key="tokenizer",
        text="How is the text cut into tokens?",
        examples="byte, char, bpe:4096, a Hugging Face tokenizer",
        default="byte",
    ),
)


def example(
    *,
    name: str,
    file: str,
    amount: str = "cpu_hours: 0.2",
    corpus: str = "embedded",
    tokenizer: str = "byte",
) -> str:
    """The text of a commented budget.

    Args:
        name: name of the sweep.
        amount: one line of the `budget:` section, such as `cpu_hours: 0.5`.
        corpus: what to train on.
        tokenizer: how it is cut.
        file: the file it is written to, for the comment.
    """
    by_byte = tokenizer in ("byte", "char")
    return TEMPLATE.format(
        name=name,
        amount=amount,
        corpus=corpus,
        tokenizer=tokenizer,
        file=file,
        context=128 if by_byte else 1024,
        batch_tokens=512 if by_byte else "auto",
        levels=3 if by_byte else 4,
        ratio=150 if by_byte else 20,
    )
