"""Tasks: which histories are predicted, at what time, and what became of them."""

from ehrseq.tasks.aces import AcesLabels
from ehrseq.tasks.files import LabelFiles
from ehrseq.tasks.joined import JoinedLabels
from ehrseq.tasks.labels import LabelMaker, Labels, SourceLabels
from ehrseq.tasks.outcomes import Outcomes, encode, encode_part
from ehrseq.tasks.windows import WindowLabels

__all__ = [
    "AcesLabels",
    "JoinedLabels",
    "LabelFiles",
    "LabelMaker",
    "Labels",
    "Outcomes",
    "SourceLabels",
    "WindowLabels",
    "encode",
    "encode_part",
]
