"""Runs that were measured elsewhere, as a loss table: read from their source, named, judged."""
