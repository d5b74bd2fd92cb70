"""The fault matrix: real processes, real signals, seeded; see `matrix.py` for its rows."""
