"""The report of a sweep: a fit and its table in, a folder that a person can open out."""

from analysis.report.folder import ReportFolderError, write_report
from analysis.report.sweep_facts import CurvePoint, SweepFacts

__all__ = ["CurvePoint", "ReportFolderError", "SweepFacts", "write_report"]
