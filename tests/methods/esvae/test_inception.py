import importlib
import sys
import types
from importlib.util import find_spec

import numpy as np
import pytest
import torch

from methods.esvae.inception import CLASSES, InceptionV3, load_inception, resized_for_inception


@pytest.fixture
def network():
    torch.manual_seed(0)
    network = InceptionV3().eval()
    for module in network.modules():  # random weights with finite activations through all layers
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_var.uniform_(0.5, 1.5)
            module.weight.data.uniform_(0.8, 1.5)
    return network.requires_grad_(False)


@pytest.fixture
def torch_fidelity(monkeypatch):
    """Its Inception module alone: the package itself imports torchvision."""
    spec = find_spec("torch_fidelity")
    if spec is None:
        pytest.skip("torch-fidelity is not installed")
    package = types.ModuleType("torch_fidelity")
    package.__path__ = list(spec.submodule_search_locations)
    monkeypatch.setitem(sys.modules, "torch_fidelity", package)
    return importlib.import_module("torch_fidelity.feature_extractor_inceptionv3")


@pytest.mark.slow
def test_features_and_logits_are_those_of_torch_fidelity(network, torch_fidelity, tmp_path):
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    theirs = torch_fidelity.FeatureExtractorInceptionV3(
        "inception-v3-compat", ["2048", "logits_unbiased"], feature_extractor_weights_path=str(tmp_path / "weights.pth")
    )
    images = torch.randint(256, (2, 3, 299, 299), dtype=torch.uint8)
    features, logits = theirs(images)
    ours = load_inception(tmp_path / "weights.pth").features((images.float() - 128) / 128)
    torch.testing.assert_close(ours, features, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(network.head(ours), logits, rtol=1e-4, atol=1e-5)
    assert logits.shape == (2, CLASSES)


def test_resizing_repeats_grey_and_keeps_constants():
    images = torch.full((2, 1, 32, 32), 0.5)
    found = resized_for_inception(images)
    assert found.shape == (2, 3, 299, 299)
    np.testing.assert_allclose(found, (127.5 * 1.5 - 128) / 128, rtol=1e-5)


def test_missing_or_other_weights_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"inception_weights.*is missing"):
        load_inception(tmp_path / "none.pth")
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match="does not hold the weights"):
        load_inception(tmp_path / "other.pth")
