"""ogbg-molhiv (Hu et al. 2020, Open Graph Benchmark), made from the table of MoleculeNet's HIV data set."""

from __future__ import annotations

import csv
import gzip
import hashlib
import logging
import os
import pickle
import zlib
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor

from datasets.download import CorruptData, cache_folder, fetch, first_existing, missing
from datasets.graphs.datamodule import CollectionDataModule
from datasets.graphs.store import GraphStore, offsets

log = logging.getLogger(__name__)

HIV_URL = "https://deepchemdata.s3-us-west-1.amazonaws.com/datasets/HIV.csv"
FORMAT = 1  # of the tensors that are kept; to be raised with every change of what they hold

# OGB's feature tables: a value's place in its list is its category, and one more category takes every other value
# (none for the stereo list, whose last entry does, and for the truth values).
ATOM_VALUES: tuple[list, ...] = (
    list(range(1, 119)),  # atomic number
    ["CHI_UNSPECIFIED", "CHI_TETRAHEDRAL_CW", "CHI_TETRAHEDRAL_CCW", "CHI_OTHER"],
    list(range(11)),  # neighbours, hydrogens included
    list(range(-5, 6)),  # formal charge
    list(range(9)),  # hydrogens
    list(range(5)),  # radical electrons
    ["SP", "SP2", "SP3", "SP3D", "SP3D2"],
    [False, True],  # aromatic
    [False, True],  # in a ring
)
BOND_VALUES: tuple[list, ...] = (
    ["SINGLE", "DOUBLE", "TRIPLE", "AROMATIC"],
    ["STEREONONE", "STEREOZ", "STEREOE", "STEREOCIS", "STEREOTRANS", "STEREOANY"],
    [False, True],  # conjugated
)
ATOM_SIZES = [119, 5, 12, 12, 10, 6, 6, 2, 2]
BOND_SIZES = [5, 6, 2]


class MolHIV(CollectionDataModule):
    """Does a molecule inhibit the replication of HIV? 41,127 molecules, 1,443 do; split by scaffold, 80/10/10.

    Yields `GraphBatch`: x (N, 9) int64, OGB's categories of each atom, column i in 0..ATOM_SIZES[i]-1; bonds (N, 13)
    float32, how often each of OGB's bond categories (5 types, 6 stereo, 2 conjugated) occurs among an atom's bonds;
    y (B,) int64, 1: active. Arguments as of `CollectionDataModule`.

    The molecules are built from their SMILES once, which needs RDKit and takes about a minute, and kept below the data
    folder where that is writable, else in the user's cache.
    Raises MissingData, CorruptData, ImportError without RDKit (setup), ValueError (bad arguments).
    """

    task = "molecule-property"

    def load(self) -> tuple[GraphStore, dict[str, Tensor]]:
        kept = cached(find_hiv(self.root), self.root)
        parts = {part: kept.pop(part) for part in ("train", "val", "test")}
        store = GraphStore(**(kept | {"x": kept["x"].long(), "col": kept["col"].long()}))
        self.check(store)
        return store, parts

    @property
    def dims(self) -> dict[str, list[int]]:
        """What a network must be told of the data: the number of categories of each atom and bond feature."""
        return {"atom_sizes": ATOM_SIZES, "bond_sizes": BOND_SIZES}


def find_hiv(root: Path) -> Path:
    """HIV.csv, or HIV.csv.gz; downloaded where it is missing. Raises MissingData."""
    folders = [root / "graphs" / "mol", root / "mol", root]
    wanted = [folder / name for folder in folders for name in ("HIV.csv", "HIV.csv.gz")]
    if found := first_existing(*wanted):
        return found
    try:
        return fetch(HIV_URL, root / "mol" / "HIV.csv")
    except OSError as error:
        raise missing("HIV.csv of MoleculeNet", wanted, HIV_URL, root, error) from error


def cached(table: Path, root: Path) -> dict[str, Tensor]:
    """`build(*read_hiv(table))`, built once for each content of the table: one process builds, the others wait.

    Raises CorruptData, ImportError.
    """
    key = hashlib.sha256(table.read_bytes()).hexdigest()[:16]
    path = cache_folder(root, "processed") / f"molhiv-{key}-v{FORMAT}.pt"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock"):
            if not path.exists():
                temporary = path.with_suffix(".part")
                torch.save(build(*read_hiv(table)), temporary)
                os.replace(temporary, path)
    try:
        return torch.load(path, weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise CorruptData(f"{path} is damaged: delete it, and it is built anew ({error})") from error


def read_hiv(table: Path) -> tuple[list[str], list[int]]:
    """SMILES and labels (1: active), a row a molecule. Raises CorruptData."""
    try:
        with (gzip.open if table.suffix == ".gz" else open)(table, "rt", newline="") as file:
            rows = [(row["smiles"], int(row["HIV_active"])) for row in csv.DictReader(file)]
    except (KeyError, TypeError, ValueError, EOFError, gzip.BadGzipFile, zlib.error, csv.Error) as error:
        raise CorruptData(
            f"{table} is not whole, or no table with the columns smiles and HIV_active: {type(error).__name__} {error}"
        ) from error
    if not rows or not {label for _, label in rows} <= {0, 1}:
        raise CorruptData(f"{table}: HIV_active must be 0 or 1 in every row, and there must be rows")
    smiles, labels = zip(*rows, strict=True)
    return list(smiles), list(labels)


def build(smiles: list[str], labels: list[int]) -> dict[str, Tensor]:
    """What `GraphStore` takes (x, bonds uint8; col int32), and the graphs of the parts train, val, test.

    Raises CorruptData for a SMILES string that is none, ImportError without RDKit.
    """
    try:
        from rdkit import Chem, rdBase
    except ImportError as error:
        raise ImportError("molecules are built with RDKit, which is not installed: pip install '.[chem]'") from error
    from rich.console import Console
    from rich.progress import track

    log.info("building %d molecules from their SMILES strings, once: about a minute", len(smiles))
    sizes, num_bonds, scaffolds = [], [], []
    atoms: list[tuple] = []
    bonds: list[tuple] = []
    with rdBase.BlockLogs():
        for row, text in enumerate(track(smiles, "molecules", console=Console(stderr=True), transient=True)):
            molecule, scaffold = _parse(text, row)
            scaffolds.append(scaffold)
            sizes.append(molecule.GetNumAtoms())
            num_bonds.append(molecule.GetNumBonds())
            atoms += map(_atom, molecule.GetAtoms())
            bonds += map(_bond, molecule.GetBonds())

    size, num_atoms = torch.tensor(sizes), len(atoms)
    names = [Chem.ChiralType.names, Chem.HybridizationType.names, Chem.BondType.names, Chem.BondStereo.names]
    number = {name: int(value) for table in names for name, value in table.items()}
    x = categories(np.array(atoms).reshape(-1, 9), ATOM_VALUES, ATOM_SIZES, number)
    bond = torch.from_numpy(np.array(bonds, dtype=np.int64).reshape(-1, 5))
    ends = bond[:, :2] + torch.repeat_interleave(offsets(size)[:-1], torch.tensor(num_bonds)).unsqueeze(1)
    bond_category = categories(bond[:, 2:].numpy(), BOND_VALUES, BOND_SIZES, number)
    store = GraphStore.from_edges(x, torch.cat([ends, ends.flip(1)]).T, size, torch.tensor(labels))
    kept = {"x": x, "ptr": store.ptr, "rowptr": store.rowptr, "col": store.col.int(), "y": store.y}
    return kept | {"bonds": count_bonds(ends, bond_category, num_atoms)} | scaffold_split(scaffolds)


def _parse(text: str, row: int) -> tuple[Any, str]:
    """The molecule, and the SMILES string of its Bemis-Murcko scaffold without chirality ("" where it has no ring).

    RDKit refuses the valences of seven molecules of the table (complexes of Al, B and Ge). They are read without that
    check, and count as without scaffold.
    """
    from rdkit import Chem
    from rdkit.Chem.Scaffolds.MurckoScaffold import MurckoScaffoldSmiles

    if molecule := Chem.MolFromSmiles(text):
        return molecule, MurckoScaffoldSmiles(mol=molecule, includeChirality=False)
    molecule = Chem.MolFromSmiles(text, sanitize=False)
    if molecule is None:
        raise CorruptData(f"row {row} (from 0) of the table of molecules is no SMILES string: {text}")
    molecule.UpdatePropertyCache(strict=False)
    Chem.SanitizeMol(molecule, Chem.SANITIZE_ALL ^ Chem.SANITIZE_PROPERTIES)
    return molecule, ""


def _atom(atom) -> tuple:
    """RDKit's values of the features in ATOM_VALUES."""
    return (
        atom.GetAtomicNum(),
        atom.GetChiralTag(),
        atom.GetTotalDegree(),
        atom.GetFormalCharge(),
        atom.GetTotalNumHs(),
        atom.GetNumRadicalElectrons(),
        atom.GetHybridization(),
        atom.GetIsAromatic(),
        atom.IsInRing(),
    )


def _bond(bond) -> tuple:
    """Both ends, and RDKit's values of the features in BOND_VALUES."""
    return (
        bond.GetBeginAtomIdx(),
        bond.GetEndAtomIdx(),
        bond.GetBondType(),
        bond.GetStereo(),
        bond.GetIsConjugated(),
    )


def categories(values: np.ndarray, tables: tuple[list, ...], sizes: list[int], number: dict[str, int]) -> Tensor:
    """Places in OGB's tables: (n, K) integers -> (n, K) uint8; a value that its table lacks takes the last category.

    sizes: categories of each feature. number: RDKit's number of each name in the tables.
    """
    columns = []
    for column, table, size in zip(values.T, tables, sizes, strict=True):
        place = {number.get(value, value): i for i, value in enumerate(table)}
        found, inverse = np.unique(column, return_inverse=True)
        columns.append(np.array([place.get(int(value), size - 1) for value in found], dtype=np.uint8)[inverse])
    return torch.from_numpy(np.stack(columns, axis=1))


def count_bonds(ends: Tensor, category: Tensor, num_atoms: int) -> Tensor:
    """How often each bond category occurs at each atom.

    ends: (E, 2) atoms of each bond; category: (E, 3). Returns (num_atoms, 13) uint8, the three features side by side.
    """
    width = sum(BOND_SIZES)
    column = category.long() + offsets(torch.tensor(BOND_SIZES))[:-1]
    cell = ends.unsqueeze(2) * width + column.unsqueeze(1)  # (E, 2, 3)
    return torch.bincount(cell.flatten(), minlength=num_atoms * width).view(num_atoms, width).to(torch.uint8)


def scaffold_split(scaffolds: list[str]) -> dict[str, Tensor]:
    """Molecules of one scaffold stay together; the largest groups train, to 80 %, the next validate, to 90 %.

    Groups of one size come in the order of their first molecule, the last one first (as in DeepChem and OGB).
    """
    groups = defaultdict(list)
    for molecule, scaffold in enumerate(scaffolds):
        groups[scaffold].append(molecule)
    parts: dict[str, list[int]] = {"train": [], "val": [], "test": []}
    for group in sorted(groups.values(), key=lambda group: (len(group), group[0]), reverse=True):
        trained = len(parts["train"])
        if trained + len(group) <= 0.8 * len(scaffolds):
            parts["train"] += group
        elif trained + len(parts["val"]) + len(group) <= 0.9 * len(scaffolds):
            parts["val"] += group
        else:
            parts["test"] += group
    return {name: torch.tensor(part, dtype=torch.int64) for name, part in parts.items()}
