import numpy as np
import pytest
import torch

from datasets.images.generative import ResizedFashionMNIST, ResizedMNIST
from methods.esvae.ann import FeatureAutoencoder
from methods.esvae.classifier import FeatureNet
from methods.esvae.metrics import frechet_distance, moments
from methods.esvae.quality import (
    ClassifierQuality,
    FrechetAutoencoderDistance,
    batch_statistics,
    feature_autoencoder,
    feature_net,
    load_state,
    read_official_moments,
    scaled,
)


def images(n=40, seed=0, size=16, channels=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (n, channels, size, size), generator=generator, dtype=torch.uint8)


def autoencoder(seed=0):
    torch.manual_seed(seed)
    network = FeatureAutoencoder(1, 16, widths=(4, 6), latent_dim=5)
    for _ in range(5):
        network.representation(scaled(images()))
    return network.eval().requires_grad_(False)


def test_real_images_have_no_distance_from_themselves():
    fad = FrechetAutoencoderDistance(autoencoder(), images())
    fad.update(scaled(images()))
    found = fad.compute()
    assert found.keys() == {"fad", "fad_batch"}
    assert max(map(abs, found.values())) < 1e-9
    fad.update(scaled(images(seed=1)) * 0.5)
    assert min(fad.compute().values()) > 1e-4


def test_batch_statistics_leave_the_network_as_it_was():
    network = autoencoder()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    x = scaled(images())
    with batch_statistics(network):
        inside = network.representation(x)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert not network.training
    assert not any(module.training for module in network.modules())
    again = network.train().representation(x)
    torch.testing.assert_close(inside, again)


def test_fad_batch_depends_on_the_batches_and_fad_does_not():
    fad = FrechetAutoencoderDistance(autoencoder(), images())
    results = []
    for size in (40, 10):
        for batch in scaled(images(seed=1)).split(size):
            fad.update(batch)
        results.append(fad.compute())
    assert results[0]["fad"] == pytest.approx(results[1]["fad"], rel=1e-5)
    assert results[0]["fad_batch"] != pytest.approx(results[1]["fad_batch"], rel=1e-3)


def test_the_autoencoder_of_a_checkpoint_is_rebuilt_from_its_weights(tmp_path):
    network = autoencoder()
    state = {f"network.{name}": value for name, value in network.state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "last.ckpt")
    torch.save(network.state_dict(), tmp_path / "plain.pth")
    x = scaled(images())
    for file in ("last.ckpt", "plain.pth"):
        found = feature_autoencoder(tmp_path / file, 1, 16)
        assert torch.equal(found.representation(x), network.representation(x))


def test_missing_and_foreign_weights_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.pth are missing"):
        load_state(tmp_path / "none.pth")
    (tmp_path / "broken.pth").write_bytes(b"no weights")
    with pytest.raises(ValueError, match=r"broken\.pth cannot be read"):
        load_state(tmp_path / "broken.pth")
    torch.save(FeatureNet(1, 10, 16).state_dict(), tmp_path / "classifier.pth")
    with pytest.raises(ValueError, match="holds no feature autoencoder for images of 1 x 16 x 16"):
        feature_autoencoder(tmp_path / "classifier.pth", 1, 16)
    torch.save(autoencoder().state_dict(), tmp_path / "autoencoder.pth")
    with pytest.raises(ValueError, match="holds no feature autoencoder for images of 3 x 32 x 32"):
        feature_autoencoder(tmp_path / "autoencoder.pth", 3, 32)
    with pytest.raises(ValueError, match="does not fit images of 1 x 32 x 32"):
        feature_net(FeatureNet(1, 10, 16).state_dict(), 1, 32)
    np.savez(tmp_path / "other.npz", mean=np.zeros(2))
    with pytest.raises(ValueError, match="no reference statistics mu and sigma"):
        read_official_moments(tmp_path / "other.npz")


def test_classifier_metrics_have_their_own_names():
    torch.manual_seed(0)
    network = feature_net(FeatureNet(1, 10, 16, widths=(4, 8), feature_dim=6).state_dict(), 1, 16)
    quality = ClassifierQuality(network, images())
    quality.update(scaled(images()))
    found = quality.compute()
    assert found.keys() == {"cfid", "cis", "ckid"}
    assert abs(found["cfid"]) < 1e-9
    assert 1 <= found["cis"] <= 10


def test_kernel_distance_does_not_depend_on_the_order_of_the_reference(monkeypatch):
    monkeypatch.setattr("methods.esvae.quality.KID_IMAGES", 100)
    torch.manual_seed(0)
    network = feature_net(FeatureNet(1, 10, 16, widths=(4, 8), feature_dim=6).state_dict(), 1, 16)
    dark, bright = images(200) // 4, images(200, seed=1) // 4 + 180
    quality = ClassifierQuality(network, torch.cat([dark, bright]))
    same = torch.stack([dark, bright], 1).flatten(0, 1)
    quality.update(scaled(same))
    spread = ClassifierQuality(network, dark)
    spread.update(scaled(same))
    assert abs(quality.compute()["ckid"]) < 0.2 * spread.compute()["ckid"]


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 torn"])
def test_torn_statistics_are_one_message(tmp_path, content):
    (tmp_path / "torn.npz").write_bytes(content)
    with pytest.raises(ValueError, match="no reference statistics mu and sigma"):
        read_official_moments(tmp_path / "torn.npz")


SETS = {  # published statistics; floors of real and noise images with batch and running statistics (dossier)
    "mnist_64": (ResizedMNIST, 4.61, 241, 5.00, 723),
    "fashion_64": (ResizedFashionMNIST, 0.87, 221, 0.92, 605),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SETS)
def test_published_statistics_and_distances_are_reproduced(name, runner_data):
    """The official means and covariances of the features of the test images, and distances of known images."""
    folder = runner_data / "images/fad_autoencoder"
    if not (folder / f"{name}.pth").exists():
        pytest.skip(f"{folder} has no {name}.pth")
    dataset, floor_batch, noise_batch, floor, noise = SETS[name]
    if not (runner_data / dataset.folder).is_dir():
        pytest.skip(f"{runner_data} has no {dataset.folder}")
    data = dataset(root=runner_data)
    data.setup()
    network = feature_autoencoder(folder / f"{name}.pth", 1, 32)
    official = read_official_moments(folder / f"{name.replace('_', '_test_')}.npz")
    test = data.parts["test"].images
    with torch.no_grad(), batch_statistics(network):
        features = torch.cat([network.representation(scaled(batch)) for batch in test.split(256)])
    ours = moments(features)
    np.testing.assert_allclose(ours.mean, official.mean, rtol=0, atol=2e-5)
    np.testing.assert_allclose(ours.covariance, official.covariance, rtol=0, atol=2e-5)
    assert abs(frechet_distance(ours, official)) < 1e-4

    fad = FrechetAutoencoderDistance(network, test, official)
    for batch in data.train_images[:5120].split(128):
        fad.update(scaled(batch))
    found = fad.compute()
    assert found["fad_batch"] == pytest.approx(floor_batch, abs=0.02)
    assert found["fad"] == pytest.approx(floor, abs=0.02)
    generator = torch.Generator().manual_seed(0)
    for _ in range(40):
        fad.update(torch.rand(128, 1, 32, 32, generator=generator) * 2 - 1)
    found = fad.compute()
    assert found["fad_batch"] == pytest.approx(noise_batch, rel=0.02)
    assert found["fad"] == pytest.approx(noise, rel=0.02)
