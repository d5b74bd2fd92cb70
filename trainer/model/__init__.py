"""Decoder-only transformers composed from interchangeable parts."""
