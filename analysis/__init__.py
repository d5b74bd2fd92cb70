"""Scaling-law analysis: from a table of (parameters, tokens, loss) to a ratio that can be trusted."""
