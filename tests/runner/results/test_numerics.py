"""Numerics of results: differences are noted, and runs that differ can be left out."""

from __future__ import annotations

from pathlib import Path

import pytest

from runner.config.address import Run
from runner.files import write_json
from runner.results.build_table import build_table
from runner.results.numerics import count_fingerprints, describe, differences, fingerprint, numerics_notes
from runner.results.reductions import Measurements
from runner.table import main

NUMERICS = {
    "device": "cpu",
    "cpu_capability": "AVX2",
    "threads": 1,
    "precision": "32-true",
    "libraries": {"torch": "2.13.0", "numpy": "2.4.0"},
}


def run(**changes: object) -> Measurements:
    return Measurements({}, [], {}, fingerprint({"numerics": NUMERICS | changes}))


UNKNOWN = Measurements({}, [], {}, fingerprint({"metrics": {}}))


def test_a_fingerprint_is_flat_text() -> None:
    assert describe(run().numerics) == (
        "device cpu, cpu capability AVX2, threads 1, precision 32-true, torch 2.13.0, numpy 2.4.0"
    )
    assert describe(UNKNOWN.numerics) == "unknown"


def test_equal_numerics_do_not_differ() -> None:
    assert differences([run(), run()]) == {}
    assert numerics_notes({("a", "x"): [run()], ("b", "x"): [run()]}) == []


def test_differences_name_keys_and_values() -> None:
    other = run(threads=2, libraries={"torch": "2.13.1", "numpy": "2.4.0"})
    assert differences([run(), other]) == {"threads": ["1", "2"], "torch": ["2.13.0", "2.13.1"]}
    assert differences([run(), UNKNOWN]) == {"numerics": ["known", "unknown"]}
    assert differences([UNKNOWN, UNKNOWN]) == {}


def test_notes_name_cells_and_compared_rows() -> None:
    cells = {("a", "x"): [run(), run(threads=2)], ("b", "x"): [run()], ("a", "y"): [run()], ("b", "y"): [run()]}
    within, between, hint = numerics_notes(cells)
    assert within == "numerics differ within the cells a / x: threads (1, 2)"
    assert between == "numerics differ between rows of x: threads (1, 2)"
    assert "numerics=same" in hint
    alone = numerics_notes({("a", "x"): [run()], ("b", "x"): [run(device="NVIDIA H200")]})
    assert alone[0] == "numerics differ between rows of x: device (NVIDIA H200, cpu)"
    assert numerics_notes({("a", "x"): [UNKNOWN, run()]})[0].startswith("numerics of 1 of 2 runs are unknown")


def test_the_most_frequent_fingerprint_comes_first_and_unknown_last() -> None:
    counts = count_fingerprints([UNKNOWN, UNKNOWN, UNKNOWN, run(threads=2), run(), run()])
    assert [(describe(numerics)[-40:], n) for numerics, n in counts] == [
        (describe(run().numerics)[-40:], 2),
        (describe(run(threads=2).numerics)[-40:], 1),
        ("unknown", 3),
    ]


@pytest.fixture
def overrides(tmp_path: Path) -> list[str]:
    """Return the overrides of a table of three seeds and two rows, in which numerics differ or are unknown."""
    overrides = ["experiment=graphnorm/table1_molhiv", "model=molgin", "seed=1,2,3", f"paths.outputs={tmp_path}"]
    recorded = {1: NUMERICS, 2: NUMERICS, 3: NUMERICS | {"threads": 4}}
    for norm, value in (("graph", 0.7), ("batch", 0.6)):
        for seed, numerics in recorded.items():
            run = Run.compose([*overrides[:2], f"model.norm={norm}", f"seed={seed}", overrides[-1]])
            run.folder.mkdir(parents=True)
            result = {"metrics": {"test/auc": value + seed / 100}, "seconds": {}, "code": {}, "numerics": numerics}
            if (norm, seed) == ("batch", 1):
                del result["numerics"]
            write_json(run.folder / "result.json", result)
    return overrides


def test_a_table_notes_differing_numerics(overrides, capsys) -> None:
    main(overrides)
    printed = capsys.readouterr().out
    assert "numerics of 1 of 6 runs are unknown" in printed
    assert "threads (1, 4)" in printed
    assert "left out" not in printed


def test_runs_of_other_numerics_can_be_left_out(overrides, capsys) -> None:
    cells = build_table(overrides, same_numerics=True).cells
    assert sorted(len(cell.values) for cell in cells.values() if cell.used) == [1, 2]
    main([*overrides, "numerics=same"])
    printed = capsys.readouterr().out
    assert "numerics=same: 3 of 6 runs left out, which differ in threads, numerics" in printed
    assert "threads (1, 4)" not in printed
    with pytest.raises(SystemExit):
        main([*overrides, "numerics=equal"])
    assert "numerics=equal is unknown; choose from any, same" in capsys.readouterr().err
