"""Writes the page: one HTML file that needs no network, and each figure's CSV file beside it."""

from __future__ import annotations

import base64
import hashlib
import importlib.resources
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2
import pandas as pd
import plotly.io
import plotly.offline

from report import figures, settings, tables
from report.figures.model import Figure
from report.results import Results

# The symbol and the class of each verdict.
WORDS = {"pass": ("✓", "good"), "supported": ("✓", "good"), "fail": ("✗", "bad"),
         "refuted": ("✗", "bad"), "undecided": ("?", "open")}
RANKS = ["good", "bad", "open"]
BATCH_TABLE, GAP_TABLE = "fig-batch-table", "fig-gap-table"
PUBLISHED = "published"


@dataclass(frozen=True)
class VerdictRow:
    """A verdict (report.verdicts.Verdict) as the page shows it."""

    verdict: object
    symbol: str
    look: str
    rank: int  # by which the tally is ordered
    effects: list[str]  # with their intervals
    figure: str  # title of its figure, "" if that is not drawn
    asked: bool  # an experiment that it reads is planned


def write(results: Results, verdicts: Sequence, folder: Path) -> Path:
    """Writes index.html and figures/*.csv below the folder; returns the page's path."""
    drawn, absent = figures.build(results)
    batch_tables = tables.batch_tables(results)
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    for stale in (folder / "figures").glob("fig-*.csv"):
        stale.unlink()
    for figure in drawn:
        figure.data.to_csv(folder / "figures" / f"{figure.kind.id}.csv", index=False)
    gap_tables = tables.gap_tables(results)
    for name, written in ((BATCH_TABLE, batch_tables), (GAP_TABLE, gap_tables)):
        if written:
            _csv_of(written).to_csv(folder / "figures" / f"{name}.csv", index=False)

    titles = {figure.kind.id: figure.kind.title for figure in drawn}
    if batch_tables:
        titles[BATCH_TABLE] = "Batch sizes"
    if published := tables.published_table(results):
        titles[PUBLISHED] = "Published numbers"
    rows = [_verdict_row(verdict, titles, set(results.experiments)) for verdict in verdicts]
    environment = _environment()
    plotly_js = plotly.offline.get_plotlyjs()
    draw_js = environment.loader.get_source(environment, "draw.js")[0]
    html = environment.get_template("report.html.j2").render(
        results=results, summary=_summary(results), title=_title(results),
        claims=[row for row in rows if not row.verdict.id.startswith("S")],
        checks=[row for row in rows if row.verdict.id.startswith("S")],
        undecided=[row.verdict for row in rows if row.look == "open" and row.asked],
        figures=[(figure, _specs(figure)) for figure in drawn], absent=absent,
        batch_tables=batch_tables, batch_table_id=BATCH_TABLE,
        gap_tables=gap_tables, gap_table_id=GAP_TABLE,
        published=published, costs=tables.cost_tables(results),
        settings=settings.settings(results), budgets=settings.budgets(results),
        versions=[(settings.versions(results, study), settings.trial_versions(results, study))
                  for study in results.studies],
        divergences=tables.divergences(results), missing=tables.missing(results),
        waiting=tables.waiting(results),
        dropped=tables.dropped(results), at_edge=tables.AT_EDGE,
        plotly_js=plotly_js, draw_js=draw_js, policy=_policy([plotly_js, draw_js]))
    page = folder / "index.html"
    partial = folder / ".index.html.partial"
    partial.write_text(html, encoding="utf-8")
    os.replace(partial, page)
    return page


def _environment() -> jinja2.Environment:
    """Every value is escaped; the template marks safe what has been made safe here."""
    templates = importlib.resources.files("report") / "templates"
    return jinja2.Environment(loader=jinja2.FileSystemLoader(str(templates)), autoescape=True,
                              undefined=jinja2.StrictUndefined, trim_blocks=True,
                              lstrip_blocks=True, keep_trailing_newline=True)


def _policy(scripts: list[str]) -> str:
    """Nothing is loaded from anywhere, and only these very scripts run."""
    digests = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
               for script in scripts]
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    return (f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; "
            "img-src data: blob:; base-uri 'none'; form-action 'none'")


def _specs(figure: Figure) -> list[tuple[str, str]]:
    """(heading, JSON) of each plot. Plotly writes < and > as escapes, so that no text within can
    end the script element it stands in."""
    return [(heading, plotly.io.to_json(plot)) for heading, plot in figure.plots]


def _title(results: Results) -> str:
    titles = [study.get("title") or study["name"] for study in results.studies]
    return " · ".join(titles)


def _summary(results: Results) -> list[dict]:
    """What the first paragraph says of each study."""
    parts = []
    for study in results.studies:
        trials = results.trials[results.trials["study"] == study["name"]]
        absent = results.missing[results.missing["study"] == study["name"]]
        missing, waiting = absent[absent["waits"] == 0], absent[absent["waits"] > 0]
        planned = sum(cell["trials"] for e in study["experiments"] for cell in e["cells"])
        parts.append({
            "name": study["name"], "command": study.get("command", ""),
            "date": str(study.get("started", ""))[:10], "device": study.get("device", "unknown"),
            "hosts": settings.hosts(study), "ranks": study.get("ranks", 1),
            "experiments": len(study["experiments"]), "planned": planned, "trials": len(trials),
            "diverged": int((trials["status"] == "DIVERGED").sum()),
            "missing": int((missing["planned"] - missing["found"]).sum()),
            "waiting": int(waiting["planned"].sum()),
            "differing": settings.differing(settings.trial_versions(results, study)),
            "training": _duration(float(trials["seconds"].astype(float).sum()))})
    return parts


def _duration(seconds: float) -> str:
    for size, name in ((3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:,.0f} {name}"
    return f"{seconds:.0f} seconds"


def _verdict_row(verdict, titles: dict[str, str], planned: set[str]) -> VerdictRow:
    symbol, look = WORDS.get(verdict.verdict, ("?", "open"))
    effects = [effect for effect in verdict.effect.split("; ") if effect]
    if effects and "[" not in verdict.effect and None not in (verdict.low, verdict.high):
        effects[0] += f" [{_end(verdict.low)}, {_end(verdict.high)}]"
    return VerdictRow(verdict, symbol, look, RANKS.index(look), effects,
                      titles.get(verdict.figure, ""),
                      not verdict.experiment or bool(planned & set(verdict.experiment.split(", "))))


def _end(value: float) -> str:
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    return f"{value:,.3g}".replace("-", "−")


def _csv_of(several: list[tables.Table]) -> pd.DataFrame:
    frames = [pd.DataFrame(table.rows, columns=table.columns).assign(experiment=table.caption)
              for table in several]
    return pd.concat(frames, ignore_index=True)
