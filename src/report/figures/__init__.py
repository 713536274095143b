"""All figures of the report, in the order of the page."""

from __future__ import annotations

from report.figures import conditions, cost, layers, noise, scaling
from report.figures.model import Figure, Kind, make
from report.results import Results

ORDER: list[Kind] = [
    scaling.KINDS["steps"], scaling.KINDS["hyperbola"], noise.KINDS["error_m"],
    noise.KINDS["heatmap"], noise.KINDS["noise_law"], layers.KINDS["layers"],
    scaling.KINDS["lr"], scaling.KINDS["divergence"], noise.KINDS["evaluation"],
    noise.KINDS["noise_scale"], cost.KINDS["step_time"], cost.KINDS["sent"], scaling.KINDS["seconds"],
    conditions.KINDS["curves"], conditions.KINDS["init"], conditions.KINDS["depth"],
    conditions.KINDS["dropout"], conditions.KINDS["optimizers"], noise.KINDS["units"],
    cost.KINDS["cost"], scaling.KINDS["tuning"],
]


def build(results: Results) -> tuple[list[Figure], list[Kind]]:
    """The figures that the results hold data for, and the kinds that they do not."""
    made = [(kind, make(kind, results)) for kind in ORDER]
    return [figure for _, figure in made if figure], [kind for kind, figure in made if not figure]
