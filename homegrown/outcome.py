"""What a stage says of its finished work; kept in the manifest and shown as a table."""

from dataclasses import dataclass, field

from homegrown.progress import Metric


@dataclass(frozen=True)
class Outcome:
    """Rows taken and made (documents, tokens or variants, as the stage's unit is) and other figures."""

    rows_in: int
    rows_out: int
    unit: str = "documents"
    metrics: dict[str, Metric] = field(default_factory=dict)
