"""Noisy labels against loops over numpy's own draws, published rates, and what must hold for any labels."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from datasets.download import CorruptData, MissingData
from datasets.images.noise import (
    CIFAR10_CONFUSIONS,
    CIFAR100_COARSE,
    KINDS,
    add_label_noise,
    read_labels,
    transition_matrix,
)

SUPER = """beaver dolphin otter seal whale; aquarium_fish flatfish ray shark trout; orchid poppy rose sunflower tulip;
bottle bowl can cup plate; apple mushroom orange pear sweet_pepper; clock keyboard lamp telephone television;
bed chair couch table wardrobe; bee beetle butterfly caterpillar cockroach; bear leopard lion tiger wolf;
bridge castle house road skyscraper; cloud forest mountain plain sea; camel cattle chimpanzee elephant kangaroo;
fox porcupine possum raccoon skunk; crab lobster snail spider worm; baby boy girl man woman;
crocodile dinosaur lizard snake turtle; hamster mouse rabbit shrew squirrel;
maple_tree oak_tree palm_tree pine_tree willow_tree; bicycle bus motorcycle pickup_truck train;
lawn_mower rocket streetcar tank tractor"""
GROUPS = [group.split() for group in SUPER.split(";")]
FINE = sorted(name for group in GROUPS for name in group)

RELATIONS = {"coarse": [0, 1, 0, 1, 0, 1], "confusions": None}  # of 6 classes
EXACT = {"symmetric_exact", "symmetric_balanced"}


def labels(per_class: int, num_classes: int) -> torch.Tensor:
    return torch.arange(num_classes).repeat(per_class)


def test_the_super_classes_of_cifar100_are_the_published_ones():
    assert len(FINE) == 100
    assert [GROUPS[group].count(name) for name, group in zip(FINE, CIFAR100_COARSE, strict=True)] == [1] * 100


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rate", [0, 0.3, 0.4, 1])
def test_rows_of_a_matrix_are_distributions(kind, rate):
    for size, relations in {
        10: {"confusions": CIFAR10_CONFUSIONS, "coarse": [0, 1] * 5},
        100: {"coarse": CIFAR100_COARSE},
    }.items():
        matrix = transition_matrix(kind, rate, size, **relations)
        assert matrix.shape == (size, size)
        assert matrix.min() >= 0
        assert matrix.sum(axis=1) == pytest.approx(np.ones(size), abs=1e-12)


@pytest.mark.parametrize("size", [10, 100])
@pytest.mark.parametrize("rate", [0.2, 0.4, 0.6])
def test_share_of_wrong_labels_of_symmetric_noise(size, rate):
    published = {(10, 0.2): 0.18, (10, 0.4): 0.36, (10, 0.6): 0.54}
    published |= {(100, 0.2): 0.198, (100, 0.4): 0.396, (100, 0.6): 0.594}
    inclusive, exclusive = (transition_matrix(kind, rate, size) for kind in ("symmetric", "symmetric_exclusive"))
    assert 1 - np.diag(inclusive) == pytest.approx(np.full(size, published[size, rate]))
    assert 1 - np.diag(exclusive) == pytest.approx(np.full(size, rate))
    clean = labels(50_000 // size, size)
    for kind, wrong in {"symmetric": published[size, rate], "symmetric_exact": published[size, rate]}.items():
        noisy = add_label_noise(clean, kind, rate, size, seed=1)
        assert (noisy != clean).double().mean() == pytest.approx(wrong, abs=0.01)  # 4 standard deviations
    noisy = add_label_noise(clean, "symmetric_exclusive", rate, size, seed=1)
    assert (noisy != clean).double().mean() == pytest.approx(rate, abs=0.01)


def test_flips_go_where_the_official_matrices_put_them():
    random = np.random.RandomState(1)
    one = np.eye(10) * 0.6
    for i in range(10):
        one[i, random.choice([j for j in range(10) if j != i])] = 0.4
    random = np.random.RandomState(1)
    two = np.eye(10) * 0.6
    for i in range(10):
        two[i, random.choice([j for j in range(10) if j != i], 2, replace=False)] = 0.2
    assert transition_matrix("flip", 0.4, 10) == pytest.approx(one, abs=1e-15)
    assert transition_matrix("flip2", 0.4, 10) == pytest.approx(two, abs=1e-15)


def test_within_the_super_classes_of_cifar100():
    circle, spread = (transition_matrix(kind, 0.4, 100, CIFAR100_COARSE) for kind in ("asymmetric", "hierarchical"))
    for group in GROUPS:
        ordered = sorted(group)
        for i, name in enumerate(ordered):
            expected = {ordered[(i + 1) % 5]: 0.4, name: 0.6}
            assert [circle[FINE.index(name), FINE.index(other)] for other in expected] == pytest.approx([0.4, 0.6])
            assert [spread[FINE.index(name), FINE.index(other)] for other in ordered] == pytest.approx(
                [0.6 if other == name else 0.1 for other in ordered]
            )


def test_asymmetric_noise_of_cifar10():
    names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    passes = {"truck": "automobile", "bird": "airplane", "deer": "horse", "cat": "dog", "dog": "cat"}
    assert {names[a]: names[b] for a, b in CIFAR10_CONFUSIONS.items()} == passes
    clean = labels(5000, 10)
    noisy = add_label_noise(clean, "asymmetric", 0.4, 10, seed=0, confusions=CIFAR10_CONFUSIONS)
    for label, name in enumerate(names):
        found = Counter(noisy[clean == label].tolist())
        target = names.index(passes[name]) if name in passes else label
        assert set(found) == {label, target}
        if name in passes:
            assert found[target] / 5000 == pytest.approx(0.4, abs=0.03)
    assert (noisy != clean).double().mean() == pytest.approx(0.2, abs=0.005)  # the other half changes into itself
    everything = add_label_noise(clean, "asymmetric", 1.0, 10, seed=0, confusions=CIFAR10_CONFUSIONS)
    assert everything.tolist() == [CIFAR10_CONFUSIONS.get(label, label) for label in clean.tolist()]


@pytest.mark.parametrize("kind", ["symmetric", "symmetric_exclusive", "flip", "flip2", "hierarchical", "asymmetric"])
def test_each_label_is_drawn_as_numpy_draws_it(kind):
    clean = torch.from_numpy(np.random.RandomState(5).randint(0, 6, 500))
    matrix = transition_matrix(kind, 0.45, 6, **RELATIONS)
    random = np.random.RandomState(7)
    expected = [random.choice(6, p=matrix[label]) for label in clean.tolist()]
    assert add_label_noise(clean, kind, 0.45, 6, 7, **RELATIONS).tolist() == expected


def test_so_many_images_exactly_are_drawn():
    clean = labels(100, 10)
    assert (
        add_label_noise(clean, "asymmetric", 0.37, 10, 0, confusions={i: (i + 1) % 10 for i in range(10)}) != clean
    ).sum() == 370
    changed = set()
    for seed in range(40):  # who is drawn shows only where the label becomes another
        changed.add(int((add_label_noise(clean, "symmetric_exact", 0.37, 10, seed) != clean).sum()))
    assert max(changed) <= 370
    assert sum(changed) / len(changed) == pytest.approx(370 * 0.9, abs=6)


def test_balanced_noise_gives_all_labels_equally_often():
    clean = labels(50, 10)
    noisy = add_label_noise(clean, "symmetric_balanced", 0.4, 10, seed=3)
    for label in range(10):
        found = noisy[clean == label].bincount(minlength=10)
        assert found.tolist() == [2 + (30 if other == label else 0) for other in range(10)]
    uneven = add_label_noise(labels(7, 3), "symmetric_balanced", 1.0, 3, seed=3)
    assert all(sorted(uneven[labels(7, 3) == label].bincount(minlength=3).tolist()) == [2, 2, 3] for label in range(3))


@settings(max_examples=60)
@given(
    st.sampled_from(sorted(KINDS)),
    st.floats(0, 1),
    st.integers(0, 2**32 - 1),
    st.lists(st.integers(0, 5), max_size=60),
)
def test_what_holds_for_any_labels(kind, rate, seed, clean):
    clean = torch.tensor(clean, dtype=torch.long)
    before = clean.clone()
    noisy = add_label_noise(clean, kind, rate, 6, seed, **RELATIONS)
    assert torch.equal(clean, before)
    assert noisy.dtype == torch.int64
    assert noisy.shape == clean.shape
    assert ((noisy >= 0) & (noisy < 6)).all()
    assert torch.equal(noisy, add_label_noise(clean, kind, rate, 6, seed, **RELATIONS))
    assert torch.equal(add_label_noise(clean, kind, 0, 6, seed, **RELATIONS), clean)
    if kind not in EXACT | {"symmetric"}:
        assert (add_label_noise(clean, kind, 1, 6, seed, **RELATIONS) != clean).all()
    allowed = torch.from_numpy(transition_matrix(kind, rate, 6, **RELATIONS))
    assert (allowed[clean, noisy] > 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_another_seed_gives_other_labels(kind):
    clean = labels(50, 6)
    assert not torch.equal(*(add_label_noise(clean, kind, 0.5, 6, seed, **RELATIONS) for seed in (1, 2)))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"kind": "unif"}, r"dataset\.noise\.kind=unif is unknown; choose from symmetric, .*hierarchical"),
        ({"rate": 1.01}, r"dataset\.noise\.rate must be a number in \[0, 1\], got 1\.01"),
        ({"rate": -0.1}, r"dataset\.noise\.rate"),
        ({"rate": float("nan")}, r"dataset\.noise\.rate"),
        ({"rate": "0.2"}, r"dataset\.noise\.rate"),
        ({"rate": None}, r"dataset\.noise\.rate is null"),
        ({"num_classes": 1}, r"kind=symmetric needs 2 classes or more, this set has 1"),
        ({"kind": "flip2", "num_classes": 2}, r"kind=flip2 needs 3 classes"),
        (
            {"kind": "asymmetric"},
            r"noise\.kind=asymmetric needs super-classes or a confusion map, which this data set does not",
        ),
        ({"kind": "hierarchical"}, r"noise\.kind=hierarchical needs super-classes, which this data set does not"),
        ({"seed": -1}, r"dataset\.noise_seed must be a whole number"),
        ({"kind": "hierarchical", "coarse": [0, 0]}, "2 super-classes are given for 4 classes"),
    ],
)
def test_bad_arguments_are_refused(options, said):
    with pytest.raises(ValueError, match=said):
        add_label_noise(
            **{"labels": labels(3, 1), "kind": "symmetric", "rate": 0.2, "num_classes": 4, "seed": 0} | options
        )


def test_a_class_alone_in_its_super_class_keeps_its_labels():
    for kind in ("asymmetric", "hierarchical"):
        assert transition_matrix(kind, 0.5, 3, [0, 1, 0])[1].tolist() == [0, 1, 0]


def test_a_file_of_labels(tmp_path):
    path = tmp_path / "labels.json"
    path.write_text(json.dumps([2, 0, 1]))
    read = read_labels(path, 3, 3, tmp_path)
    assert read.tolist() == [2, 0, 1]
    assert read.dtype == torch.int64


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[0, 1]", "has 2 labels, the training part has 3 images"),
        ("[0, 1, 3]", r"has the label 3, expected 0\.\.2"),
        ("[0, 1, -1]", "has the label -1"),
        ("[0, 1, 1.0]", "no list of whole numbers"),
        ("[0, 1, true]", "no list of whole numbers"),
        ('{"labels": 3}', "no list of whole numbers"),
        ("[0, 1", "no JSON"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(tmp_path, content, said):
    path = tmp_path / "labels.json"
    path.write_text(content)
    with pytest.raises(CorruptData, match=rf"dataset\.noise_file: {path} (has|is) .*") as error:
        read_labels(path, 3, 3, tmp_path)
    assert error.match(said)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(MissingData, match=r"dataset\.noise_file.*\n.*\n.*nothing\.json"):
        read_labels(tmp_path / "nothing.json", 3, 3, tmp_path)
