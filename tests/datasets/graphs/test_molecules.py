"""ogbg-molhiv from SMILES: categories against RDKit's values by name, bond counts against a loop, the split."""

from __future__ import annotations

import gzip
import sys
from pathlib import Path

import pytest
import torch

from datasets.download import CorruptData, MissingData
from datasets.graphs import molecules
from datasets.graphs.molecules import (
    ATOM_SIZES,
    BOND_SIZES,
    MolHIV,
    build_molecules,
    cached,
    count_bonds,
    find_hiv,
    read_hiv,
    scaffold_split,
)

Chem = pytest.importorskip("rdkit.Chem", reason="molecules need RDKit: pip install '.[chem]'")

SMILES = [
    "Cl[C@H](/C=C/C)Br",  # chirality, E double bond
    "O1C=C[C@H]([C@H]1O2)c3c2cc(OC)c4c3OC(=O)C5=C4CCC(=O)5",  # aflatoxin B1
    "[Na+].[O-]C(=O)C#N",  # charges, two components, a triple bond
    "[CH3]",  # a radical
    "*C",  # an atom of number 0
    "[U]",  # an atom without bonds
    "N->[Pt](Cl)Cl",  # a dative bond
    "O=C1O[Al]23(OC1=O)(OC(=O)C(=O)O2)OC(=O)C(=O)O3",  # a valence that RDKit refuses; row 137 of the table
    "S(F)(F)(F)(F)(F)F",
    "[H][H]",
    "c1ccc2ccccc2c1",
]
LABELS = [0, 1, 0, 0, 1, 0, 0, 0, 1, 0, 1]


def by_the_book(smiles: str) -> tuple[list[list[int]], list[tuple[int, int, list[int]]]]:
    """Categories of the atoms, and (end, end, categories) of the bonds: by name, one at a time, as OGB defines them."""

    def place(value, values: list) -> int:
        return values.index(value) if value in values else len(values)

    molecule = Chem.MolFromSmiles(smiles)
    if molecule is None:
        molecule = Chem.MolFromSmiles(smiles, sanitize=False)
        molecule.UpdatePropertyCache(strict=False)
        Chem.SanitizeMol(molecule, Chem.SANITIZE_ALL ^ Chem.SANITIZE_PROPERTIES)
    chirality = ["CHI_UNSPECIFIED", "CHI_TETRAHEDRAL_CW", "CHI_TETRAHEDRAL_CCW", "CHI_OTHER"]
    atoms = [
        [
            place(atom.GetAtomicNum(), [*range(1, 119)]),
            place(str(atom.GetChiralTag()), chirality),
            place(atom.GetDegree() + atom.GetTotalNumHs(), [*range(11)]),
            place(atom.GetFormalCharge(), [*range(-5, 6)]),
            place(atom.GetTotalNumHs(), [*range(9)]),
            place(atom.GetNumRadicalElectrons(), [*range(5)]),
            place(str(atom.GetHybridization()), ["SP", "SP2", "SP3", "SP3D", "SP3D2"]),
            int(atom.GetIsAromatic()),
            int(atom.IsInRing()),
        ]
        for atom in molecule.GetAtoms()
    ]
    stereo = ["STEREONONE", "STEREOZ", "STEREOE", "STEREOCIS", "STEREOTRANS", "STEREOANY"]
    bonds = [
        (
            bond.GetBeginAtomIdx(),
            bond.GetEndAtomIdx(),
            [
                place(str(bond.GetBondType()), ["SINGLE", "DOUBLE", "TRIPLE", "AROMATIC"]),
                stereo.index(str(bond.GetStereo())),
                int(bond.GetIsConjugated()),
            ],
        )
        for bond in molecule.GetBonds()
    ]
    return atoms, bonds


def write_table(path: Path, smiles: list[str] = SMILES, labels: list[int] = LABELS) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [f"{i},{text},CI,{label}\n" for i, (text, label) in enumerate(zip(smiles, labels, strict=True))]
    path.write_text("index,smiles,activity,HIV_active\n" + "".join(rows))
    return path


def test_categories_and_bond_counts_are_those_of_each_atom_and_bond():
    kept = build_molecules(SMILES, LABELS)
    for i, text in enumerate(SMILES):
        atoms, bonds = by_the_book(text)
        first, last = kept["ptr"][i], kept["ptr"][i + 1]
        assert kept["x"][first:last].tolist() == atoms, text
        counts = torch.zeros(len(atoms), sum(BOND_SIZES), dtype=torch.uint8)
        neighbours = [set() for _ in atoms]
        for a, b, (kind, stereo, conjugated) in bonds:
            for atom, other in ((a, b), (b, a)):
                neighbours[atom].add(int(first) + other)
                for column in (kind, 5 + stereo, 11 + conjugated):
                    counts[atom, column] += 1
        assert torch.equal(kept["bonds"][first:last], counts), text
        for atom, expected in enumerate(neighbours):
            start, end = kept["rowptr"][first + atom : first + atom + 2]
            assert set(kept["col"][start:end].tolist()) == expected, text


def test_the_example_of_ogb():
    """The categories that ogb/utils/features.py gives in its comments."""
    kept = build_molecules(["Cl[C@H](/C=C/C)Br"], [0])
    assert kept["x"][1].tolist() == [5, 2, 4, 5, 1, 0, 2, 0, 0]
    double = count_bonds(torch.tensor([[2, 3]]), torch.tensor([[1, 2, 0]], dtype=torch.uint8), 6)
    assert kept["bonds"][3, 1] == 1
    assert kept["bonds"][3, 7] == 1
    assert double[3].nonzero().flatten().tolist() == [1, 7, 11]


def test_sizes_hold_every_category_and_no_more():
    values = [len(table) for table in (*molecules.ATOM_VALUES, *molecules.BOND_VALUES)]
    others = [size - n for size, n in zip(ATOM_SIZES + BOND_SIZES, values, strict=True)]
    assert others == [1, 1, 1, 1, 1, 1, 1, 0, 0, 1, 0, 0]
    kept = build_molecules(["*", "[U+6]", "Cl[Pt@SP1](Br)(I)F"], [0, 0, 0])
    assert kept["x"][0, 0] == 118
    assert kept["x"][1, 3] == 11
    assert kept["x"][3, 1] == 4  # a square planar centre is none of the tetrahedral ones


def test_what_is_no_smiles_string_is_named_with_its_row():
    with pytest.raises(CorruptData, match=r"row 1 .*C1CC"):
        build_molecules(["CC", "C1CC"], [0, 1])


def test_scaffolds_stay_together_and_the_largest_train():
    scaffolds = ["a"] * 3 + ["b"] * 3 + ["", "c", "", "d"] + [""] * 10
    parts = scaffold_split(scaffolds)
    # of 20, up to 16 train and up to 18 with those that validate; of groups of one size the later one comes first
    assert parts["train"].tolist() == [6, 8, *range(10, 20), 3, 4, 5, 9]
    assert parts["val"].tolist() == [0, 1, 2]
    assert parts["test"].tolist() == [7]


def test_a_batch_is_what_the_docstring_says(tmp_path):
    write_table(tmp_path / "mol" / "HIV.csv")
    data = MolHIV(root=tmp_path, batch_size=4)
    data.setup()
    data.store.check()
    assert data.dims == {"atom_sizes": ATOM_SIZES, "bond_sizes": BOND_SIZES}
    batches = [*data.train_dataloader(), *data.val_dataloader(), *data.test_dataloader()]
    assert sum(batch.num_graphs for batch in batches) == len(SMILES)
    assert sum(int(batch.y.sum()) for batch in batches) == sum(LABELS)
    for batch in batches:
        assert batch.x.dtype == torch.int64
        assert (batch.x < torch.tensor(ATOM_SIZES)).all()
        assert batch.bonds.dtype == torch.float32
        assert torch.equal(batch.bonds[:, :5].sum(1), batch.degree)
        assert batch.bonds.shape[1] == 13


def test_molecules_are_built_once_for_each_content_of_the_table(tmp_path, monkeypatch):
    built = []
    monkeypatch.setattr(molecules, "build_molecules", lambda *table: built.append(table) or build_molecules(*table))
    table = write_table(tmp_path / "HIV.csv")
    first, second = cached(table, tmp_path), cached(table, tmp_path)
    assert len(built) == 1
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)
    write_table(table, SMILES[:2], LABELS[:2])
    assert len(cached(table, tmp_path)["y"]) == 2
    assert len(built) == 2
    assert not list(tmp_path.rglob("*.part"))


def test_a_read_only_data_folder_is_left_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    table = write_table(tmp_path / "data" / "HIV.csv")
    table.parent.chmod(0o555)
    cached(table, table.parent)
    assert list((tmp_path / "cache").rglob("molhiv-*.pt"))
    assert list(table.parent.iterdir()) == [table]


def test_damaged_tensors_are_named(tmp_path):
    table = write_table(tmp_path / "HIV.csv")
    cached(table, tmp_path)
    (kept,) = tmp_path.rglob("*.pt")
    kept.write_bytes(kept.read_bytes()[:100])
    with pytest.raises(CorruptData, match="delete it"):
        cached(table, tmp_path)


@pytest.mark.parametrize(
    "text",
    ["smiles,active\nC,1\n", "smiles,HIV_active\nC,yes\n", "smiles,HIV_active\nC,2\n", "smiles,HIV_active\nC\n", ""],
    ids=["no column", "no number", "no label", "short row", "empty"],
)
def test_a_table_of_another_form_is_refused(tmp_path, text):
    table = tmp_path / "HIV.csv"
    table.write_text(text)
    with pytest.raises(CorruptData, match=r"HIV\.csv"):
        read_hiv(table)


def test_a_compressed_table_is_read_and_half_a_one_refused(tmp_path):
    whole = gzip.compress(write_table(tmp_path / "HIV.csv").read_bytes())
    table = tmp_path / "HIV.csv.gz"
    table.write_bytes(whole)
    assert read_hiv(table) == (SMILES, LABELS)
    table.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CorruptData, match="not whole"):
        read_hiv(table)


def test_data_with_other_counts_is_refused(tmp_path):
    write_table(tmp_path / "HIV.csv")
    with pytest.raises(CorruptData, match="graphs"):
        MolHIV(root=tmp_path, expect={"graphs": 41127}).setup()


def test_without_data_and_network_the_places_are_named(tmp_path, monkeypatch):
    def unreachable(url, target):
        raise OSError("no network")

    monkeypatch.setattr(molecules, "fetch", unreachable)
    with pytest.raises(MissingData, match=r"graphs/mol/HIV\.csv\.gz"):
        find_hiv(tmp_path)


def test_without_rdkit_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "rdkit", None)
    with pytest.raises(ImportError, match=r"\.\[chem\]"):
        build_molecules(["C"], [0])


@pytest.mark.slow
def test_the_split_is_the_published_one(runner_data):
    """Counts of ogbg-molhiv (Hu et al. 2020), and index files made independently of this code."""
    folder = runner_data / "graphs" / "mol"
    if not (folder / "HIV.csv.gz").exists():
        pytest.skip(f"no HIV.csv.gz in {folder}")
    data = MolHIV(root=runner_data, expect={"graphs": 41127, "classes": 2, "features": 9})
    data.setup()
    data.store.check()
    assert {part: len(index) for part, index in data.parts.items()} == {"train": 32901, "val": 4113, "test": 4113}
    active = {part: int(data.store.y[index].sum()) for part, index in data.parts.items()}
    assert active == {"train": 1232, "val": 81, "test": 130}
    assert float(data.store.sizes.float().mean()) == pytest.approx(25.5, abs=0.05)
    assert data.store.col.numel() / 2 / len(data.store) == pytest.approx(27.5, abs=0.05)
    for part, name in {"train": "train", "val": "valid", "test": "test"}.items():
        with gzip.open(folder / f"hiv_scaffold_{name}_idx.csv.gz", "rt") as file:
            assert data.parts[part].tolist() == [int(line) for line in file], part
