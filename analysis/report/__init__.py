"""The report of a sweep: a fit and its table in, a folder that a person can open out."""

from analysis.report.folder import ReportFolderError, write_report
from analysis.report.sweep_facts import CurvePoint, NextRun, RecipeCheck, SweepFacts

__all__ = [
    "CurvePoint",
    "NextRun",
    "RecipeCheck",
    "ReportFolderError",
    "SweepFacts",
    "write_report",
]
