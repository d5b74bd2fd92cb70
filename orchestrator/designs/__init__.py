"""Designs: which (N, D) points a budget is spent on, as pure functions of the table so far."""
