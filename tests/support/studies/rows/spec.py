"""The study as a command."""

from racecar.study.classification.spec import classification_study
from rows.experiment import Rows

SPEC = classification_study(
    Rows(), "rows: which one is bright", data="nothing else", presets={"paper": "all", "quick": "seconds"}
)
