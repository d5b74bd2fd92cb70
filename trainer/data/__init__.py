"""Text to tokens on disk: corpora, tokenizers and memory-mapped token files."""
