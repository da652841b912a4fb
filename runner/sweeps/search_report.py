"""Outcome of a search: the best trial's command, a CSV of all trials, and figures of history, importance, slices."""

from __future__ import annotations

import csv
import io
import logging
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from runner.execution.plot_style import COLUMN_WIDTH, colour, pyplot, save_figure
from runner.files import write_json, write_whole

log = logging.getLogger(__name__)
MOST_SLICES = 6
MOST_NAMED = 5  # trials of a Pareto front that are printed


def best_line(trials: Any) -> str:
    """Return the best value so far, as a clause."""
    if len(trials.settings.metrics) > 1 or not trials.count("COMPLETE"):
        return ""
    return f" (best {trials.study.best_value:.4g})"


def write_report(trials: Any, folder: Path) -> str:
    """Write search.json, trials.csv and the figures of a search, and return a summary.

    Args:
        trials: trials of the search, of which at least one has succeeded.
        folder: folder of the study.
    """
    settings = trials.settings
    best = sorted(trials.study.best_trials, key=lambda t: t.number)
    entries = [describe(trial, trials) for trial in best]
    counts = {name.lower(): trials.count(name) for name in ("COMPLETE", "PRUNED", "FAIL")}
    write_json(folder / "search.json", {"goals": dict(settings.goals), "trials": counts, "best": entries})
    write_whole(folder / "trials.csv", trials_csv(trials))
    figures = draw(trials, folder / "figures")
    front = len(settings.metrics) > 1
    lines = [", ".join(f"{n} {name}" for name, n in counts.items() if n) + " trials"]
    lines[0] = lines[0].replace("complete", "finished").replace("fail trials", "failed trials")
    if front:
        lines.append(f"{len(entries)} trials that no other one beats in every metric:")
    for entry in entries[:MOST_NAMED] if front else entries[:1]:
        values = ", ".join(f"{name} {value:.4g}" for name, value in entry["values"].items())
        lines += [f"  {'' if front else 'best: '}{values}  (trial {entry['number'] + 1})", f"    {entry['command']}"]
        if not front:
            lines.append(f"    {entry['folder']}")
    if front and len(entries) > MOST_NAMED:
        lines.append(f"  and {len(entries) - MOST_NAMED} more in search.json")
    lines.append(f"  {folder}: search.json, trials.csv" + "".join(f", figures/{path.name}" for path in figures))
    return "\n".join(lines)


def describe(trial: Any, trials: Any) -> dict[str, Any]:
    """Return a trial as search.json holds it."""
    chosen = [d.override(trial.params[d.key]) for d in trials.space]
    return {
        "number": trial.number,
        "values": dict(zip(trials.settings.metrics, trial.values, strict=True)),
        "params": trial.params,
        "command": shlex.join(["python", "-m", "runner", *trials.fixed, *chosen]),
        "folder": trial.user_attrs["folder"],
    }


def trials_csv(trials: Any) -> str:
    """Return all trials as CSV, one a line."""
    text, metrics = io.StringIO(), trials.settings.metrics
    writer = csv.writer(text)
    writer.writerow(["trial", "state", *metrics, *trials.distributions, "seconds", "run"])
    for t in trials.study.get_trials(deepcopy=False):
        values = t.values if t.state.name == "COMPLETE" else [""] * len(metrics)
        params = [t.params.get(key, "") for key in trials.distributions]
        seconds = round(t.duration.total_seconds(), 1) if t.duration else ""
        writer.writerow([t.number + 1, t.state.name.lower(), *values, *params, seconds, t.user_attrs.get("run", "")])
    return text.getvalue()


def draw(trials: Any, folder: Path) -> list[Path]:
    """Draw the figures that the trials allow, and return their files."""
    completed = [t for t in trials.study.get_trials(deepcopy=False) if t.state.name == "COMPLETE"]
    folder.mkdir(exist_ok=True)
    paths: list[Path] = []
    with pyplot():
        figures = {"slices": slices(trials, completed)}
        if len(trials.settings.metrics) == 1:
            figures = {"history": history(trials, completed), "importance": importance(trials, completed)} | figures
        else:
            figures["front"] = front(trials, completed)
        for name, figure in figures.items():
            if figure is not None:
                paths += save_figure(figure, folder / name)
    return paths


def history(trials: Any, completed: Sequence[Any]) -> Any:
    """Draw the value of each trial, and the best one so far."""
    import matplotlib.pyplot as plt

    ((metric, direction),) = trials.settings.goals
    better = max if direction == "maximize" else min
    numbers, values = [t.number + 1 for t in completed], [t.value for t in completed]
    figure, ax = plt.subplots()
    ax.plot(numbers, values, "o", color=colour(0), label="trial")
    best = [better(values[: i + 1]) for i in range(len(values))]
    ax.step(numbers, best, where="post", color=colour(1), label="best so far")
    pruned = [t for t in trials.study.get_trials(deepcopy=False) if t.state.name == "PRUNED" and t.intermediate_values]
    if pruned:
        last = [t.intermediate_values[max(t.intermediate_values)] for t in pruned]
        ax.plot([t.number + 1 for t in pruned], last, "x", color="grey", label="pruned, last value")
    ax.set(xlabel="trial", ylabel=metric)
    ax.locator_params(axis="x", integer=True, nbins=6)
    ax.grid()
    figure.legend(loc="outside lower center", ncols=3)
    return figure


def importance(trials: Any, completed: Sequence[Any]) -> Any:
    """Draw the importance of each searched key (PED-ANOVA); None if too few trials have succeeded."""
    import matplotlib.pyplot as plt

    evaluator = trials.optuna.importance.PedAnovaImportanceEvaluator()
    varied = [key for key in trials.distributions if len({t.params[key] for t in completed}) > 1]
    if len(completed) < 4 or len(varied) < 2:
        return None
    try:
        shares = trials.optuna.importance.get_param_importances(trials.study, evaluator=evaluator, params=varied)
    except (ValueError, RuntimeError) as error:
        log.warning("the importance of the keys cannot be computed: %s", error)
        return None
    names = list(reversed(shares))
    figure, ax = plt.subplots(figsize=(COLUMN_WIDTH, 0.6 + 0.25 * len(names)))
    ax.barh(names, [shares[name] for name in names], color=colour(0))
    ax.set(xlabel=f"share of the variance of {trials.settings.metrics[0]}")
    return figure


def slices(trials: Any, completed: Sequence[Any]) -> Any:
    """Draw the first metric against each of the searched keys."""
    import matplotlib.pyplot as plt

    dimensions = trials.space[:MOST_SLICES]
    rows = -(-len(dimensions) // 2)
    columns = min(2, len(dimensions))
    size = (COLUMN_WIDTH, 1.5 * rows + 0.3)
    figure, grid = plt.subplots(rows, columns, figsize=size, squeeze=False, sharey=True)
    for i, ax in enumerate(grid.flat):
        if i >= len(dimensions):
            ax.set_axis_off()
            continue
        d = dimensions[i]
        order = {value: place for place, value in enumerate(d.values)}
        x = [order[t.params[d.key]] if d.values else t.params[d.key] for t in completed]
        ax.plot(x, [t.values[0] for t in completed], "o", color=colour(0), alpha=0.7)
        ax.set(xlabel=d.key, xscale="log" if d.log else "linear")
        if d.values:
            ax.set_xticks(range(len(d.values)), d.values)
            ax.set_xlim(-0.5, len(d.values) - 0.5)
        elif not d.log:
            ax.locator_params(axis="x", nbins=4)
        if i % 2 == 0:
            ax.set_ylabel(trials.settings.metrics[0])
        ax.grid()
    return figure


def front(trials: Any, completed: Sequence[Any]) -> Any:
    """Draw the first two metrics against each other, the trials that no other one beats marked."""
    import matplotlib.pyplot as plt

    best = {t.number for t in trials.study.best_trials}
    figure, ax = plt.subplots()
    for name, marked, look in (("trial", False, "o"), ("not beaten", True, "D")):
        chosen = [t for t in completed if (t.number in best) == marked]
        x, y = ([t.values[i] for t in chosen] for i in (0, 1))
        if chosen:
            ax.plot(x, y, look, color=colour(int(marked)), label=name)
    ax.set(xlabel=trials.settings.metrics[0], ylabel=trials.settings.metrics[1])
    ax.grid()
    figure.legend(loc="outside lower center", ncols=2)
    return figure
