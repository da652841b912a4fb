"""What holds for every image classifier: the files of conf/model, normalisation, features, torch.func, precision."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import nn
from torch.func import functional_call, grad, jvp, vjp, vmap

from methods.architectures.cifar_resnet import CifarResNet
from methods.architectures.classifier import Classifier
from methods.architectures.convnet import ConvNet
from methods.architectures.lenet import LeNet5
from methods.architectures.mobilenet import MobileNetV2
from methods.architectures.resnet import PreActResNet, ResNet
from methods.architectures.vgg import VGG
from methods.architectures.wide_resnet import WideResNet

CONF = Path(__file__).parents[3] / "conf" / "model"

# at 32x32x3 and 10 classes, as published or counted from the published code
PARAMETERS = {
    "smallcnn": 24_346,
    "lenet5": 62_006,  # 61,706 at one channel
    "resnet18": 11_173_962,
    "resnet34": 21_282_122,
    "preact_resnet18": 11_172_170,
    "resnet20": 269_722,
    "resnet32": 464_154,
    "resnet56": 853_018,
    "wrn28_10": 36_479_194,
    "wrn34_10": 46_160_474,
    "wrn40_2": 2_243_546,
    "vgg16": 14_728_266,
    "mobilenetv2": 2_296_922,
}

# small ones of each kind: class, its own arguments, image size
SMALL = {
    "ConvNet": (ConvNet, {"widths": [4, 6, 8]}, 9),
    "LeNet5": (LeNet5, {}, 28),
    "LeNet5 padded": (LeNet5, {"padding": 2}, 32),
    "ResNet": (ResNet, {"blocks": [1, 2], "width": 4}, 9),
    "PreActResNet": (PreActResNet, {"blocks": [1, 2], "width": 4}, 9),
    "PreActResNet of FaMUS": (
        PreActResNet,
        {"blocks": [1, 2], "width": 4, "stem_norm": True, "final_norm": False},
        9,
    ),
    "CifarResNet": (CifarResNet, {"depth": 8, "width": 4}, 9),
    "WideResNet": (WideResNet, {"depth": 10, "widen": 1}, 9),
    "VGG": (VGG, {"widths": [[4], [6, 6]]}, 8),
    "MobileNetV2": (MobileNetV2, {}, 9),
}


def data(channels: int = 3, classes: int = 10, size: int = 32) -> dict:
    """What a data module of images says of itself."""
    mean, std = [0.4, 0.5, 0.6][:channels], [0.2, 0.25, 0.3][:channels]
    return {"in_channels": channels, "num_classes": classes, "image_size": size, "mean": mean, "std": std}


def count(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def make(name: str, channels: int = 3, classes: int = 5, **more) -> tuple[Classifier, torch.Tensor]:
    """A small network and a batch of 4 images; running statistics are no longer 0 and 1."""
    torch.manual_seed(0)
    cls, own, size = SMALL[name]
    network = cls(**data(channels, classes, size), **own, **more)
    images = torch.rand(4, channels, size, size)
    network.apply(lambda module: setattr(module, "momentum", 1.0))  # running statistics: those of the next batch
    network(images)
    return network.eval(), images


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_choice_of_conf_is_the_published_network(name):
    cfg = OmegaConf.load(CONF / f"{name}.yaml")
    with torch.device("meta"):
        network = instantiate(cfg, _partial_=True)(**data())
        assert count(network) == PARAMETERS[name]
        assert network(torch.rand(2, 3, 32, 32)).shape == (2, 10)
        wider = instantiate(cfg, _partial_=True)(**data(classes=100))
    assert count(wider) - count(network) == 90 * (network.head.in_features + 1)
    assert network.tasks == ("image-classification",)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", SMALL)
def test_shapes_and_that_the_head_sees_the_features(name, channels):
    for classes in (2, 7):
        network, images = make(name, channels, classes)
        features = network.features(images)
        assert features.shape == (4, network.head.in_features)
        logits = network(images)
        assert logits.shape == (4, classes)
        torch.testing.assert_close(logits, features @ network.head.weight.T + network.head.bias)


@pytest.mark.parametrize("name", SMALL)
def test_normalisation_is_part_of_the_network(name):
    network, images = make(name)
    plain = make(name, normalize=False)[0]
    plain.load_state_dict(network.state_dict())
    mean, std = data()["mean"], data()["std"]
    by_hand = torch.stack([(images[:, c] - mean[c]) / std[c] for c in range(3)], dim=1)
    torch.testing.assert_close(network(images), plain(by_hand))
    torch.testing.assert_close(network.extract(by_hand), plain.features(by_hand))
    assert not torch.allclose(network(images), plain(images), atol=1e-4)


@pytest.mark.parametrize("name", SMALL)
def test_the_state_is_the_weights_alone_in_the_order_of_the_forward_pass(name):
    network = make(name)[0]
    state = network.state_dict()
    assert not {"mean", "std"} & set(state)
    assert list(state)[-2:] == ["head.weight", "head.bias"]
    moved = network.to(torch.float64)
    assert moved.mean.dtype == moved.std.dtype == torch.float64


@pytest.mark.parametrize("name", SMALL)
def test_every_parameter_gets_a_gradient(name):
    network, images = make(name)
    network.train()(images).square().sum().backward()
    assert not [key for key, p in network.named_parameters() if p.grad is None or not p.grad.isfinite().all()]


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", SMALL)
def test_forward_and_reverse_mode_agree(name, training):
    """<u, J v> is the same by jvp and vjp, for tangents of weights and images; as FaMUS needs it."""
    network, images = make(name)
    network, images = network.double().train(training), images.double()
    weights = {key: p.detach() for key, p in network.named_parameters()}
    tangents = {key: torch.randn_like(p) for key, p in weights.items()}, torch.randn_like(images)

    def logits(weights, images):  # batch normalisation writes its buffers, so torch.func must see them made
        buffers = {key: b.clone() for key, b in network.named_buffers()}
        return functional_call(network, weights | buffers, (images,))

    out, forward = jvp(logits, (weights, images), tangents)
    u = torch.randn_like(out)
    reverse = vjp(logits, weights, images)[1](u)
    total = sum((reverse[0][key] * tangents[0][key]).sum() for key in weights) + (reverse[1] * tangents[1]).sum()
    torch.testing.assert_close((u * forward).sum(), total)
    torch.testing.assert_close(out, network(images))


@pytest.mark.parametrize("name", SMALL)
def test_gradients_of_single_images_by_vmap(name):
    network, images = make(name)
    bias = network.head.bias.detach()

    def loss(bias, image):
        return functional_call(network, {"head.bias": bias}, (image[None],)).square().sum()

    found = vmap(grad(loss), (None, 0))(bias, images)
    torch.testing.assert_close(found, 2 * network(images))


@pytest.mark.parametrize("name", SMALL)
def test_an_image_is_judged_alone_in_eval_mode(name):
    network, images = make(name)
    with torch.no_grad():
        torch.testing.assert_close(network(images)[1:2], network(images[1:2]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", SMALL)
def test_images_are_left_as_they_were(name):
    network, images = make(name)
    before = images.clone()
    network.train()(images)
    assert torch.equal(images, before)


@pytest.mark.parametrize("name", SMALL)
def test_channels_last_and_bf16(name):
    network, images = make(name)
    with torch.no_grad():
        expected = network(images)
        with torch.autocast("cpu", torch.bfloat16):
            rough = network(images)
        assert rough.dtype == torch.bfloat16
        rounded = network(images * (1 + torch.randn_like(images) * 2**-9))  # MobileNetV2 untrained magnifies noise
        assert (rough - expected).norm() < 3 * (rounded - expected).norm() + 0.02 * expected.norm()
        network.to(memory_format=torch.channels_last)
        last = network(images.to(memory_format=torch.channels_last))
    torch.testing.assert_close(last, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("mean", "std"), [([0.5], [0.2, 0.2]), ([], []), ([0.5], [0.0])], ids=["lengths", "empty", "no deviation"]
)
def test_statistics_that_make_no_sense_are_refused(mean, std):
    with pytest.raises(ValueError, match="one number a channel"):
        Classifier(1, 2, 8, mean, std)


@pytest.mark.parametrize("name", SMALL)
def test_new_initial_weights_are_those_of_a_new_network(name):
    network = make(name)[0]
    before = {key: value.clone() for key, value in network.state_dict().items()}
    network.reset_parameters()
    cls, own, size = SMALL[name]
    fresh = cls(**data(3, 5, size), **own)
    for key, expected in fresh.state_dict().items():
        value = network.state_dict()[key]
        if value.dim() > 1 and value.numel() > 100:
            assert value.std().item() == pytest.approx(expected.std().item(), rel=0.35), key
            assert not torch.equal(value, before[key])
        elif "running" in key or "num_batches" in key:
            assert torch.equal(value, expected), key


def test_images_of_other_channels_are_refused():
    network = ConvNet(in_channels=3, num_classes=2, image_size=8, mean=[0.5], std=[0.2])
    with pytest.raises(ValueError, match="images have 3 channels, but mean and std have 1"):
        network(torch.rand(1, 3, 8, 8))


def test_a_network_must_say_what_its_features_are():
    with pytest.raises(NotImplementedError, match="Classifier does not define extract"):
        Classifier(1, 2, 4, [0.5], [0.2]).features(torch.rand(1, 1, 4, 4))


@pytest.mark.parametrize(
    ("cls", "own", "size", "said"),
    [
        (LeNet5, {}, 30, "28 or 32 pixels, got 30"),
        (LeNet5, {"padding": -1}, 28, "model.padding must not be negative"),
        (ResNet, {"width": 0}, 8, "model.width must be positive"),
        (PreActResNet, {"width": -1}, 8, "model.width must be positive"),
        (CifarResNet, {"width": 0}, 32, "model.width must be positive"),
        (WideResNet, {"widen": 0}, 32, "model.widen must be positive"),
        (WideResNet, {"dropout": -1.0}, 32, "model.dropout must be a number in"),
        (ConvNet, {"widths": []}, 8, "model.widths"),
        (ConvNet, {"widths": [8, 0]}, 8, r"model.widths\[1\] must be positive"),
        (ConvNet, {}, 3, "ConvNet halves its images 2 times: they must be at least 4 wide, got 3"),
        (ResNet, {}, 7, "at least 8 wide, got 7"),
        (ResNet, {"blocks": [2, 0]}, 8, r"model.blocks .* got \[2, 0\]"),
        (PreActResNet, {}, 7, "at least 8 wide"),
        (CifarResNet, {"depth": 18}, 32, r"6n \+ 2 .* got 18"),
        (CifarResNet, {"depth": 2}, 32, r"6n \+ 2 .* got 2"),
        (CifarResNet, {"width": 3}, 32, "must be even.* got 3"),
        (CifarResNet, {}, 2, "at least 4 wide"),
        (WideResNet, {"depth": 20}, 32, r"6n \+ 4 .* got 20"),
        (WideResNet, {}, 3, "at least 4 wide"),
        (VGG, {}, 28, "VGG halves its images 5 times: they must be a multiple of 32 wide, got 28"),
        (VGG, {"widths": [[4], []]}, 8, "groups of at least one"),
        (MobileNetV2, {}, 4, "at least 8 wide"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(cls, own, size, said):
    with torch.device("meta"), pytest.raises(ValueError, match=said):
        cls(**data(size=size), **own)
