"""Data set ogbg-molhiv (Hu et al. 2020, Open Graph Benchmark), built from MoleculeNet's table of the HIV data set."""

from __future__ import annotations

import csv
import gzip
import hashlib
import logging
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
from datasets.files import atomic_write
from datasets.graphs.datamodule import CollectionDataModule
from datasets.graphs.store import GraphStore, offsets
from datasets.progress import track

log = logging.getLogger(__name__)

HIV_URL = "https://deepchemdata.s3-us-west-1.amazonaws.com/datasets/HIV.csv"
FORMAT = 1  # version of the cached tensors; to be raised with every change of their content

# OGB's feature tables. The category of a value is its place in the list. Values that a list lacks have one more
# category, except for the stereo list, where they have that of its last entry, and for the truth values.
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
    """DataModule of ogbg-molhiv: 41,127 molecules, of which 1,443 inhibit HIV; split by scaffold, 80/10/10.

    It yields `GraphBatch`: x (N, 9) int64, OGB's categories of each atom, column i in 0..ATOM_SIZES[i]-1; bonds (N, 13)
    float32, how often each of OGB's bond categories (5 types, 6 stereo, 2 conjugated) occurs among an atom's bonds;
    y (B,) int64, 1: active. It takes the arguments of `CollectionDataModule`.

    The molecules are built from their SMILES strings once, which needs RDKit and takes about a minute, and are cached
    below the data folder if that is writable, else in the user's cache.

    Raises:
        ValueError: bad arguments.
        MissingData: the table is missing, and its download fails (in `setup`).
        CorruptData: the table or the cache is damaged (in `setup`).
        ImportError: RDKit is not installed (in `setup`).
    """

    task = "molecule-property"

    def load(self) -> tuple[GraphStore, dict[str, Tensor]]:
        """Read the cached tensors, which are built from the table if they are missing."""
        tensors = cached(find_hiv(self.root), self.root)
        parts = {part: tensors.pop(part) for part in ("train", "val", "test")}
        fields: dict[str, Any] = tensors | {"x": tensors["x"].long(), "col": tensors["col"].long()}
        store = GraphStore(**fields)
        self.check(store)
        return store, parts

    @property
    def dims(self) -> dict[str, list[int]]:
        """Arguments of a network that depend on the data: the number of categories of each atom and bond feature."""
        return {"atom_sizes": ATOM_SIZES, "bond_sizes": BOND_SIZES}


def find_hiv(root: Path) -> Path:
    """Return the path of HIV.csv or HIV.csv.gz; it is downloaded if it is missing.

    Args:
        root: data folder.

    Raises:
        MissingData: the table is missing, and its download fails.
    """
    folders = [root / "graphs" / "mol", root / "mol", root]
    wanted = [folder / name for folder in folders for name in ("HIV.csv", "HIV.csv.gz")]
    if path := first_existing(*wanted):
        return path
    try:
        return fetch(HIV_URL, root / "mol" / "HIV.csv")
    except OSError as error:
        raise missing("HIV.csv of MoleculeNet", wanted, HIV_URL, root, error) from error


def cached(table: Path, root: Path) -> dict[str, Tensor]:
    """Return the tensors of a table, built once for each content of it: one process builds, the others wait.

    Args:
        table: path of the table.
        root: data folder.

    Returns:
        What `build_molecules` returns.

    Raises:
        CorruptData: the table or the cache is damaged.
        ImportError: RDKit is not installed.
    """
    key = hashlib.sha256(table.read_bytes()).hexdigest()[:16]
    path = cache_folder(root, "processed") / f"molhiv-{key}-v{FORMAT}.pt"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock"):
            if not path.exists():
                with atomic_write(path) as temporary:
                    torch.save(build_molecules(*read_hiv(table)), temporary)
    try:
        return torch.load(path, weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise CorruptData(f"{path} is damaged: delete it, and it is built again ({error})") from error


def read_hiv(table: Path) -> tuple[list[str], list[int]]:
    """Read SMILES strings and labels (1: active), one of each per molecule.

    Raises:
        CorruptData: the table is damaged or lacks a column.
    """
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


def build_molecules(smiles: list[str], labels: list[int]) -> dict[str, Tensor]:
    """Build graphs from SMILES strings.

    Args:
        smiles: SMILES string of each molecule.
        labels: label of each molecule, 0 or 1.

    Returns:
        Arguments of `GraphStore` (x and bonds uint8, col int32), and the graphs of the parts train, val and test.

    Raises:
        CorruptData: a string is no SMILES string.
        ImportError: RDKit is not installed.
    """
    try:
        from rdkit import Chem, rdBase
    except ImportError as error:
        raise ImportError("molecules are built with RDKit, which is not installed: pip install '.[chem]'") from error
    log.info("building %d molecules from their SMILES strings, once: about a minute", len(smiles))
    sizes, num_bonds, scaffolds = [], [], []
    atoms: list[tuple] = []
    bonds: list[tuple] = []
    with rdBase.BlockLogs():
        for row, text in enumerate(track(smiles, "molecules")):
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
    """Return the molecule and its scaffold: the Bemis-Murcko SMILES string without chirality, "" without a ring.

    RDKit refuses the valences of seven molecules of the table (complexes of Al, B and Ge). They are read without that
    check, and count as molecules without scaffold.
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


def _atom(atom: Any) -> tuple:
    """Return RDKit's values of the features in ATOM_VALUES."""
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


def _bond(bond: Any) -> tuple:
    """Return both ends, and RDKit's values of the features in BOND_VALUES."""
    return (
        bond.GetBeginAtomIdx(),
        bond.GetEndAtomIdx(),
        bond.GetBondType(),
        bond.GetStereo(),
        bond.GetIsConjugated(),
    )


def categories(values: np.ndarray, tables: tuple[list, ...], sizes: list[int], number: dict[str, int]) -> Tensor:
    """Return OGB's category of each value; a value that its table lacks has the last category.

    Args:
        values: (n, K) integers.
        tables: values of each of the K features, in the order of their categories.
        sizes: number of categories of each feature.
        number: RDKit's number of each name in the tables.

    Returns:
        (n, K) uint8.
    """
    columns = []
    for column, table, size in zip(values.T, tables, sizes, strict=True):
        place = {number.get(value, value): i for i, value in enumerate(table)}
        observed, inverse = np.unique(column, return_inverse=True)
        columns.append(np.array([place.get(int(value), size - 1) for value in observed], dtype=np.uint8)[inverse])
    return torch.from_numpy(np.stack(columns, axis=1))


def count_bonds(ends: Tensor, category: Tensor, num_atoms: int) -> Tensor:
    """Count the bonds of each category at each atom.

    Args:
        ends: (E, 2) atoms of each bond.
        category: (E, 3) category of each bond feature.
        num_atoms: number of atoms.

    Returns:
        (num_atoms, 13) uint8, the three features side by side.
    """
    width = sum(BOND_SIZES)
    column = category.long() + offsets(torch.tensor(BOND_SIZES))[:-1]
    cell = ends.unsqueeze(2) * width + column.unsqueeze(1)  # (E, 2, 3)
    return torch.bincount(cell.flatten(), minlength=num_atoms * width).view(num_atoms, width).to(torch.uint8)


def scaffold_split(scaffolds: list[str]) -> dict[str, Tensor]:
    """Split molecules by scaffold: the largest groups fill train to 80 %, the next ones val to 90 %, the rest is test.

    Molecules of one scaffold stay together. Groups of one size are in the order of their first molecule, the last one
    first (as in DeepChem and OGB).

    Args:
        scaffolds: scaffold of each molecule.

    Returns:
        Molecules of train, val and test, int64 each.
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
