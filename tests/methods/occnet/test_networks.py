"""Networks against plain re-computations with torch's layers in the other layout, and the official parameter counts."""

from __future__ import annotations

from functools import partial
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.nn.functional import batch_norm, conv1d, linear, relu

from methods.occnet.atlasnet import PatchNetwork
from methods.occnet.blocks import ConditionalBatchNorm, ResnetBlockFC
from methods.occnet.decoders import DECODERS, make_decoder
from methods.occnet.encoders import ImageEncoder, IndexEncoder, LatentEncoder, PointCloudEncoder, VoxelEncoder
from methods.occnet.occupancy_network import OccupancyNetwork
from methods.occnet.psgn import PointSetNetwork
from methods.occnet.r2n2 import VoxelNetwork

SMALL = {
    "pointcloud": partial(PointCloudEncoder, hidden=8, c_dim=6),
    "voxels": partial(VoxelEncoder, c_dim=6, channels=(2, 2, 2, 2, 2)),
    "image": partial(ImageEncoder, c_dim=6, blocks=(1, 1), width=4),
    "index": partial(IndexEncoder, c_dim=6),
}


def shaken(module: nn.Module, seed: int = 0) -> nn.Module:
    """With all parameters and running statistics moved away from where they start."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
        for name, buffer in module.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_()
            if name.endswith("running_var"):
                buffer.uniform_(0.5, 2.0)
    return module


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("training", [True, False])
def test_conditional_norm_is_batch_norm_with_an_affine_part_read_off_the_code(training):
    norm = shaken(ConditionalBatchNorm(4, 6)).train(training)
    x, c = torch.randn(3, 10, 6), torch.randn(3, 4)
    mean, var = norm.bn.running_mean.clone(), norm.bn.running_var.clone()
    # torch's, over (B, F, T)
    plain = batch_norm(x.mT, mean, var, training=training, momentum=0.1, eps=1e-5)
    gamma = linear(c, norm.gamma.weight, norm.gamma.bias)[..., None]
    beta = linear(c, norm.beta.weight, norm.beta.bias)[..., None]
    torch.testing.assert_close(norm(x, c), (gamma * plain + beta).mT, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(norm.bn.running_mean, mean)
    torch.testing.assert_close(norm.bn.running_var, var)


def test_at_the_start_a_block_changes_nothing_but_by_a_bias_and_the_norm_is_a_plain_one():
    x, c = torch.randn(2, 5, 6), torch.randn(2, 4)
    norm = ConditionalBatchNorm(4, 6)
    torch.testing.assert_close(norm(x, c), batch_norm(x.mT, None, None, training=True).mT, atol=1e-5, rtol=1e-5)
    block = ResnetBlockFC(6)
    torch.testing.assert_close(block(x), x + block.fc_1.bias)


@pytest.mark.parametrize(("c_dim", "count"), [(512, 3_548_417), (256, 2_106_625)])
def test_the_paper_decoder_has_its_number_of_parameters(c_dim, count):
    assert parameters(make_decoder("cbatchnorm", c_dim, 0, 256, 5)) == count


@pytest.mark.parametrize(
    ("encoder", "count"),
    [
        (PointCloudEncoder, 6_825_472),
        (VoxelEncoder, 5_750_848),
        (ImageEncoder, 11_689_512 - 513_000 + 512 * 256 + 256),  # torchvision's ResNet-18, its last layer exchanged
    ],
)
def test_the_paper_encoders_have_their_number_of_parameters(encoder, count):
    assert parameters(encoder(num_shapes=1)) == count


def test_the_decoder_is_that_of_the_official_code_over_channels_first():
    decoder = shaken(make_decoder("cbatchnorm", 4, 3, 8, 2)).eval()
    p, z, c = torch.randn(2, 7, 3), torch.randn(2, 3), torch.randn(2, 4)

    def conv(x, layer):
        return conv1d(x, layer.weight[..., None], layer.bias)

    def cbn(x, norm):
        plain = batch_norm(x, norm.bn.running_mean, norm.bn.running_var)
        return norm.gamma(c)[..., None] * plain + norm.beta(c)[..., None]

    x = conv(p.mT, decoder.fc_p) + decoder.fc_z(z)[..., None]
    for block in decoder.blocks:
        h = conv(relu(cbn(x, block.norms[0])), block.fc_0)
        x = x + conv(relu(cbn(h, block.norms[1])), block.fc_1)
    expected = conv(relu(cbn(x, decoder.norm)), decoder.fc_out)[:, 0]
    torch.testing.assert_close(decoder(p, z, c), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", DECODERS)
def test_in_eval_mode_a_logit_depends_on_its_own_point_shape_and_code(name):
    decoder = shaken(make_decoder(name, 4, 3, 8, 2)).eval()
    p, z, c = torch.randn(2, 6, 3), torch.randn(2, 3), torch.randn(2, 4)
    logits = decoder(p, z, c)
    assert logits.shape == (2, 6)
    torch.testing.assert_close(decoder(p[1:, 3:4], z[1:], c[1:]), logits[1:, 3:4], atol=1e-5, rtol=1e-4)
    assert not torch.allclose(decoder(p, z, c + 1), logits)
    assert not torch.allclose(decoder(p, z + 1, c), logits)


def test_the_point_cloud_encoder_is_the_residual_pointnet_and_blind_to_order():
    encoder = shaken(PointCloudEncoder(1, hidden=4, c_dim=5)).eval()
    x = torch.randn(2, 9, 3)
    net = linear(x, encoder.fc_pos.weight, encoder.fc_pos.bias)
    for i, block in enumerate(encoder.blocks):
        dx = block.fc_1(relu(block.fc_0(relu(net))))
        net = net @ block.shortcut.weight.T + dx
        pooled = net.max(dim=1, keepdim=True).values
        net = torch.cat([net, pooled.repeat(1, 9, 1)], 2) if i < 4 else pooled[:, 0]
    expected = encoder.fc_c(relu(net))
    torch.testing.assert_close(encoder(x), expected)
    torch.testing.assert_close(encoder(x[:, torch.randperm(9)]), expected)


@pytest.mark.parametrize("counted", [True, False])  # the published file, of 2017, has no num_batches_tracked
def test_resnet18_weights_of_torchvision_are_taken_over_by_name(tmp_path, counted):
    def block(name, a, b, projected):
        shapes = {f"{name}.conv1.weight": (b, a, 3, 3), f"{name}.conv2.weight": (b, b, 3, 3)}
        norms = [f"{name}.bn1", f"{name}.bn2"]
        if projected:
            shapes[f"{name}.downsample.0.weight"] = (b, a, 1, 1)
            norms.append(f"{name}.downsample.1")
        return shapes | {f"{n}.{k}": (b,) for n in norms for k in ("weight", "bias", "running_mean", "running_var")}

    shapes = {"conv1.weight": (64, 3, 7, 7), "fc.weight": (1000, 512), "fc.bias": (1000,)}
    shapes |= {f"bn1.{k}": (64,) for k in ("weight", "bias", "running_mean", "running_var")}
    for stage, (a, b) in enumerate([(64, 64), (64, 128), (128, 256), (256, 512)], start=1):
        shapes |= block(f"layer{stage}.0", a, b, stage > 1) | block(f"layer{stage}.1", b, b, False)
    state = {name: torch.rand(shape) for name, shape in shapes.items()}
    norms = [name.removesuffix("running_mean") for name in shapes if name.endswith("running_mean")]
    if counted:
        state |= {f"{name}num_batches_tracked": torch.tensor(7) for name in norms}
    torch.save(state, tmp_path / "resnet18.pth")

    encoder = ImageEncoder(1, weights=str(tmp_path / "resnet18.pth"))
    assert torch.equal(encoder.stages[2][0].shortcut[0].weight, state["layer3.0.downsample.0.weight"])
    assert torch.equal(encoder.stages[3][1].bn2.running_var, state["layer4.1.bn2.running_var"])
    assert torch.equal(encoder.stem[0].weight, state["conv1.weight"])
    with pytest.raises(ValueError, match="is not a ResNet-18 of torchvision"):
        ImageEncoder(1, weights=str(tmp_path / "resnet18.pth"), width=32)
    with pytest.raises(FileNotFoundError, match="is not a file"):
        ImageEncoder(1, weights=str(tmp_path / "none.pth"))
    del state["layer2.0.downsample.0.weight"]
    torch.save(state, tmp_path / "less.pth")
    with pytest.raises(ValueError, match="has 99 tensors below its last layer, this network has 100"):
        ImageEncoder(1, weights=str(tmp_path / "less.pth"))


@pytest.mark.parametrize("c_dim", [0, 4])
def test_the_latent_encoder_is_the_pointnet_of_the_official_code(c_dim):
    encoder = shaken(LatentEncoder(c_dim, 3, hidden=8))
    p, o, c = torch.randn(2, 6, 3), torch.rand(2, 6).round(), torch.randn(2, c_dim)
    net = p @ encoder.fc_pos.weight.T + encoder.fc_pos.bias
    net = net + o[..., None] * encoder.fc_occ.weight[:, 0] + encoder.fc_occ.bias
    if c_dim:
        net = net + (c @ encoder.fc_c.weight.T + encoder.fc_c.bias)[:, None]
    for i, layer in enumerate(encoder.layers):
        net = net.clamp(min=0) @ layer.weight.T + layer.bias
        pooled = net.max(dim=1, keepdim=True).values
        net = torch.cat([net, pooled.repeat(1, 6, 1)], 2) if i < 2 else pooled[:, 0]
    q = encoder(p, o, c)
    torch.testing.assert_close(q.mean, encoder.mean(net))
    torch.testing.assert_close(q.stddev, encoder.log_std(net).exp())
    assert (net < 0).any()


def test_the_latent_encoder_is_blind_to_order_and_sees_the_occupancy():
    encoder = shaken(LatentEncoder(0, 3, hidden=8))
    p, o, c = torch.randn(2, 6, 3), (torch.rand(2, 6) > 0.5).float(), torch.zeros(2, 0)
    q, order = encoder(p, o, c), torch.randperm(6)
    torch.testing.assert_close(encoder(p[:, order], o[:, order], c).mean, q.mean)
    assert q.stddev.shape == (2, 3)
    assert not torch.allclose(encoder(p, 1 - o, c).mean, q.mean)


INPUTS = {
    "pointcloud": torch.rand(2, 12, 3),
    "voxels": (torch.rand(2, 32, 32, 32) > 0.5).float(),
    "image": torch.rand(2, 3, 16, 16),
    "index": torch.tensor([1, 0]),
}


@pytest.mark.parametrize("kind", INPUTS)
@pytest.mark.parametrize(
    ("network", "sizes", "shape"),
    [
        (VoxelNetwork, {"channels": (4, 4, 4, 4)}, (2, 32, 32, 32)),
        (PointSetNetwork, {"hidden": 8, "points": 10}, (2, 10, 3)),
    ],
)
def test_every_network_takes_every_kind_of_input(kind, network, sizes, shape):
    made = network(kind, 2, SMALL, **sizes)
    assert made(INPUTS[kind]).shape == shape
    onet = OccupancyNetwork(kind, 2, SMALL, hidden=8, blocks=1)
    assert onet(torch.rand(2, 5, 3), INPUTS[kind]).shape == (2, 5)


@pytest.mark.parametrize("training", [True, False])
def test_a_patch_is_the_published_network(training):
    """Layers of torch for one patch after the other, as AtlasNet's code has them, with the same weights."""
    network = shaken(PatchNetwork("index", 2, SMALL, patches=3, hidden=5, num_layers=2)).train(training)
    uv, index = torch.rand(2, 3, 4, 2), torch.tensor([1, 0])
    code = network.encode(index)
    norms = [layer for layer in network.decoder if isinstance(layer, nn.BatchNorm1d)]
    convs = [layer for layer in network.decoder if isinstance(layer, nn.Conv1d)]
    assert [type(layer) for layer in network.decoder] == [nn.BatchNorm1d, nn.ReLU, nn.Conv1d] * 4
    statistics = [(norm.running_mean.clone(), norm.running_var.clone()) for norm in norms]
    points = network(uv, index)
    for patch in range(3):

        def own(values, patch=patch):
            return values.chunk(3)[patch]

        h = conv1d(uv[:, patch].mT, own(network.conv1.weight), own(network.conv1.bias)) + code[:, :, None]
        for conv, norm, (mean, var) in zip(convs, norms, statistics, strict=True):
            h = batch_norm(
                h, own(mean).clone(), own(var).clone(), own(norm.weight), own(norm.bias), training=training, eps=1e-5
            )
            h = conv1d(relu(h), own(conv.weight), own(conv.bias))
        torch.testing.assert_close(points[:, patch], h.mT, atol=1e-5, rtol=1e-4)


def test_the_atlasnet_decoder_has_the_published_sizes():
    """1024-512-512-512-3 per patch, batch norm on every hidden layer: 26.5 M parameters for 25 patches."""
    network = PatchNetwork("index", 1, {"index": partial(IndexEncoder, c_dim=1024)})
    convs = [layer for layer in network.modules() if isinstance(layer, nn.Conv1d)]
    assert [layer.out_channels // 25 for layer in convs] == [1024, 512, 512, 512, 3]
    assert [layer.in_channels // 25 for layer in convs] == [2, 1024, 512, 512, 512]
    per_patch = sum((a + 1) * b for a, b in pairwise([2, 1024])) + 2 * 1024
    per_patch += (1024 + 1) * 512 + 2 * (512 + 1) * 512 + 3 * 2 * 512 + (512 + 1) * 3
    assert parameters(network) - parameters(network.encoder) == 25 * per_patch == 26_496_075
    assert network(torch.rand(2, 25, 3, 2), torch.tensor([0, 0])).abs().max() > 0  # no tanh bounds the points
    assert not any(isinstance(layer, nn.Tanh) for layer in network.modules())


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: OccupancyNetwork("pointcloud", 2, SMALL, decoder="cnb"), "model.decoder=cnb is unknown"),
        (lambda: OccupancyNetwork("none", 2, SMALL), "model.decoder=simple"),
        (lambda: OccupancyNetwork("pointcloud", 2, SMALL, hidden=0), "model.hidden"),
        (lambda: OccupancyNetwork("pointcloud", 2, SMALL, z_dim=-1), "model.z_dim"),
        (lambda: OccupancyNetwork("image", 2, {"index": SMALL["index"]}), "needs an encoder: model.encoders.image"),
        (lambda: OccupancyNetwork("image", 2, {"image": SMALL["voxels"]}), "is an encoder of voxels"),
        (lambda: VoxelNetwork("none", 2, SMALL), "needs an input"),
        (lambda: VoxelNetwork("pointcloud", 2, SMALL, channels=(8, 8, 0, 8)), r"model.channels\[2\] must be positive"),
        (lambda: VoxelEncoder(1, resolution=24), "multiple of 16"),
        (lambda: VoxelEncoder(1, channels=[0]), r"model.encoders.voxels.channels\[0\] must be positive"),
        (lambda: PointCloudEncoder(1, hidden=0), "model.encoders.pointcloud.hidden must be positive"),
        (lambda: ImageEncoder(1, width=-1), "model.encoders.image.width must be positive"),
        (lambda: IndexEncoder(1, c_dim=0), "model.encoders.index.c_dim must be positive"),
    ],
)
def test_parts_that_do_not_fit_are_refused(make, said):
    with pytest.raises(ValueError, match=said):
        make()
