"""Reports of a run that can be mailed: one HTML file, a model card, a checklist; from what lies in its folder."""

from ehrseq.reporting.page import Page
from ehrseq.reporting.render import CARD, CHECKLIST, REPORT, write_report

__all__ = ["CARD", "CHECKLIST", "REPORT", "Page", "write_report"]
