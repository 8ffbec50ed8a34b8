"""Runs of each (workload, tool), and what follows from them: medians, and ratios to the plain run of the same round."""

import json
import statistics
from dataclasses import asdict, dataclass, field

from .measure import Run
from .outcomes import Outcome


@dataclass
class Cell:
    """All runs of one tool over one workload. `runs` is by repetition; a run that failed is not among them."""

    runs: dict = field(default_factory=dict)
    failure: str = ""
    outcome: Outcome | None = None
    spent: float = 0.0

    def median(self, of):
        """The median of `of(run)`; None without runs."""
        values = [of(run) for run in self.runs.values()]
        return statistics.median(values) if values else None


class Results:
    """Cells by (workload id, tool id)."""

    def __init__(self):
        self.cells = {}

    def cell(self, workload, tool):
        """The cell, made on first use."""
        return self.cells.setdefault((workload, tool), Cell())

    def ratios(self, workload, tool, of):
        """`of(run)` by that of the plain run of the same repetition, sorted: the machine's mood cancels out."""
        plain, cell = self.cell(workload, "plain").runs, self.cell(workload, tool).runs
        return sorted(of(run) / of(plain[at]) for at, run in cell.items() if at in plain and of(plain[at]) > 0)

    def added(self, workload, tool, key):
        """Nanoseconds that a malloc or free takes longer than plain: half of the pair's difference, medians."""
        difference = [
            (run.program[key] - plain.program[key]) / 2
            for at, run in self.cell(workload, tool).runs.items()
            if (plain := self.cell(workload, "plain").runs.get(at))
        ]
        return statistics.median(difference) if difference else None

    def foreign_share(self):
        """CPU time that other processes took, as a share of the wall time of all runs (1.0: one processor)."""
        runs = [run for cell in self.cells.values() for run in cell.runs.values()]
        wall = sum(run.wall for run in runs)
        return sum(run.foreign_cpu for run in runs) / wall if wall else 0.0

    def as_json(self):
        """Everything that was measured, for whoever wants to look closer."""

        def plain_run(run: Run):
            kept = asdict(run)
            return {key: value for key, value in kept.items() if key not in ("stdout", "stderr")}

        cells = [
            {
                "workload": workload,
                "tool": tool,
                "failure": cell.failure,
                "outcome": cell.outcome and asdict(cell.outcome),
                "runs": [plain_run(run) for run in cell.runs.values()],
            }
            for (workload, tool), cell in self.cells.items()
        ]
        return json.dumps(cells, indent=1)
