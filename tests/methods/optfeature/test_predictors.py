"""Predictors against formulas and against the layers of FuxiCTR and DeepCTR-Torch where those are installed."""

from __future__ import annotations

import importlib.util
from itertools import combinations
from pathlib import Path

import pytest
import torch
from torch import nn

from methods.optfeature.autoint import AutoInt, FieldAttention
from methods.optfeature.dcn import DCN, DCNV2
from methods.optfeature.deepfm import FNN, DeepFM, WideDeep
from methods.optfeature.factorization_machines import FM, LR, FwFM
from methods.optfeature.fibinet import BilinearProducts, FiBiNET, SqueezeExcitation
from methods.optfeature.finalmlp import BilinearFusion, FeatureGate, FinalMLP
from methods.optfeature.pnn import IPNN, OPNN
from methods.optfeature.selection.optinter import OptInterNetwork
from methods.optfeature.xdeepfm import CIN, XDeepFM

SIZES = (5, 3, 7, 4)
SMALL = {"embedding_dim": 4, "hidden": (8, 6)}
NETWORKS = {
    "lr": lambda **k: LR(SIZES, **k),
    "fm": lambda **k: FM(SIZES, 4, **k),
    "fwfm": lambda **k: FwFM(SIZES, 4, **k),
    "fnn": lambda **k: FNN(SIZES, **SMALL, **k),
    "wide_deep": lambda **k: WideDeep(SIZES, **SMALL, **k),
    "deepfm": lambda **k: DeepFM(SIZES, **SMALL, **k),
    "dcn": lambda **k: DCN(SIZES, **SMALL, **k),
    "dcnv2": lambda **k: DCNV2(SIZES, **SMALL, **k),
    "ipnn": lambda **k: IPNN(SIZES, **SMALL, **k),
    "opnn": lambda **k: OPNN(SIZES, **SMALL, **k),
    "xdeepfm": lambda **k: XDeepFM(SIZES, maps=(3, 2), **SMALL, **k),
    "autoint": lambda **k: AutoInt(SIZES, 4, heads=2, head_dim=3, **k),
    "autoint_plus": lambda **k: AutoInt(SIZES, head_dim=3, **SMALL, **k),
    "fibinet": lambda **k: FiBiNET(SIZES, **SMALL, **k),
    "finalmlp": lambda **k: FinalMLP(SIZES, 4, (8, 6), (6,), heads=2, **k),
    "optinter": lambda **k: OptInterNetwork(SIZES, cross_values=50, **SMALL, **k),
}


def rows(count: int = 6) -> torch.Tensor:
    offsets = [0, 5, 8, 15]
    columns = [torch.randint(o, o + s, (count,), dtype=torch.int32) for o, s in zip(offsets, SIZES, strict=True)]
    return torch.stack(columns, dim=1)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_row_has_a_logit_of_its_own(name):
    network, ids = NETWORKS[name]().eval(), rows()
    for parameter in network.parameters():
        nn.init.normal_(parameter)
    logits = network(ids)
    assert logits.shape == (6,)
    torch.testing.assert_close(torch.cat([network(row[None]) for row in ids]), logits, rtol=1e-4, atol=1e-4)
    loss = logits.square().sum()
    loss.backward()
    unused = [n for n, p in network.named_parameters() if p.grad is None]
    assert unused == (["cross_embedding.weight"] if name == "optinter" else [])


@pytest.mark.parametrize("name", NETWORKS)
def test_sparse_gradients_are_those_of_dense_tables(name):
    dense, sparse = NETWORKS[name](), NETWORKS[name](sparse=True)
    sparse.load_state_dict(dense.state_dict())
    ids, shares = rows(), torch.rand(1, 6, 3) if name == "optinter" else None
    for network in (dense, sparse):
        network(ids, shares).sin().sum().backward()
    for mine, other in zip(dense.parameters(), sparse.parameters(), strict=True):
        torch.testing.assert_close(other.grad.to_dense() if other.grad.is_sparse else other.grad, mine.grad)


def test_lr_begins_at_zero_and_sums_weights():
    network, ids = LR(SIZES), rows()
    assert torch.equal(network(ids), torch.zeros(6))
    nn.init.normal_(network.linear.weight.weight)
    network.linear.bias.data.fill_(0.5)
    weight = network.linear.weight.weight.detach()
    expected = [0.5 + sum(float(weight[i]) for i in row) for row in ids]
    torch.testing.assert_close(network(ids), torch.tensor(expected))


def test_fm_sums_the_inner_products_of_all_pairs():
    network, ids = FM(SIZES, 4), rows()
    e = network.embedding.weight[ids.long()]
    expected = sum((e[:, i] * e[:, j]).sum(1) for i, j in combinations(range(4), 2))
    torch.testing.assert_close(network(ids), expected)
    torch.testing.assert_close(network(ids, torch.ones(1, 6)), expected)
    torch.testing.assert_close(network(ids, torch.tensor([[0.0, 1, 0, 0, 0, 2]])), gated(e, {1: 1, 5: 2}))


def gated(e, weights):
    pairs = list(combinations(range(4), 2))
    return sum(weight * (e[:, pairs[k][0]] * e[:, pairs[k][1]]).sum(1) for k, weight in weights.items())


def test_fwfm_weighs_pairs():
    network, ids = FwFM(SIZES, 4), rows()
    e = network.embedding.weight[ids.long()]
    torch.testing.assert_close(network(ids), gated(e, dict(enumerate(network.pair_weight))))


@pytest.mark.parametrize("name", ["fm", "fwfm", "deepfm", "ipnn", "opnn"])
def test_gates_of_one_change_nothing(name):
    network, ids = NETWORKS[name]().eval(), rows()
    torch.testing.assert_close(network(ids, torch.ones(6, 6)), network(ids), rtol=0, atol=1e-6)
    torch.testing.assert_close(network(ids, None, torch.ones(6, 4)), network(ids), rtol=0, atol=0)
    assert not torch.allclose(network(ids, torch.zeros(1, 6)), network(ids))


@pytest.mark.parametrize("name", ["fm", "fwfm", "deepfm", "ipnn", "opnn"])
def test_options_of_autofis_and_profit_fit_every_network_with_pair_terms(name):
    """A linear term is added, and pair terms are normalised before their gates."""
    network, ids = NETWORKS[name](linear=True, pair_norm=True), rows(50)
    plain = NETWORKS[name](linear=False, pair_norm=False)
    plain.load_state_dict(network.state_dict(), strict=False)
    nn.init.normal_(network.linear.weight.weight)
    network.pair_norm.running_mean.fill_(0.0)
    network.pair_norm.running_var.fill_(1 - 1e-3)
    torch.testing.assert_close(network.eval()(ids), plain.eval()(ids) + network.linear(ids))
    gate = torch.ones(1, 6, requires_grad=True)
    network.train()(ids, gate).square().sum().backward()
    assert gate.grad.abs().min() > 0
    assert not torch.allclose(network(ids), network.eval()(ids))


def test_ipnn_with_gates_of_one_is_ipnn_to_the_last_bit():
    network, ids = IPNN(SIZES, **SMALL), rows()
    assert torch.equal(network(ids, torch.ones(6, 6)), network(ids))


def test_number_of_parameters_of_ipnn():
    m, n, d = sum(SIZES), 4, 4
    inputs = n * d + n * (n - 1) // 2
    expected = m * d + (inputs * 8 + 8) + (8 * 6 + 6) + (6 + 1)
    assert sum(p.numel() for p in IPNN(SIZES, **SMALL).parameters()) == expected


def test_opnn_is_a_bilinear_form_of_each_pair():
    network, ids = OPNN(SIZES, **SMALL), rows()
    e = network.embed(ids)
    for k, (i, j) in enumerate(combinations(range(4), 2)):
        expected = torch.einsum("bd,de,be->b", e[:, i], network.kernel[k], e[:, j])
        torch.testing.assert_close(network.products(e)[:, k], expected)


def test_dcn_by_the_formula():
    network, ids = DCN(SIZES, **SMALL), rows()
    for bias in network.cross_biases:
        nn.init.normal_(bias)
    x0 = x = network.embed(ids).flatten(1)
    for layer, bias in zip(network.cross_layers, network.cross_biases, strict=True):
        x = torch.stack([a * (layer.weight[0] @ b) + bias + b for a, b in zip(x0, x, strict=True)])
    torch.testing.assert_close(network.cross(x0), x)


def test_dcnv2_by_the_formula():
    network, ids = DCNV2(SIZES, **SMALL), rows()
    for bias in network.cross_biases:
        nn.init.normal_(bias)
    x0 = x = network.embed(ids).flatten(1)
    for layer, bias in zip(network.cross_layers, network.cross_biases, strict=True):
        x = torch.stack([a * (layer.weight @ b + bias) + b for a, b in zip(x0, x, strict=True)])
    torch.testing.assert_close(network.cross(x0), x)


def test_compressed_interactions_by_loops():
    """x^k_h = sum over i, j of W^k_hij x^(k-1)_i * x^0_j, plus the bias that FuxiCTR has, then summed over d."""
    cin, e = CIN(4, (3, 2)), torch.randn(2, 4, 5)
    for row, logit in zip(e, cin(e), strict=True):
        state, pooled = list(row), []
        for layer in cin.layers:
            weight = layer.weight.view(layer.out_features, 4, len(state))
            state = [
                layer.bias[h] + sum(weight[h, j, i] * state[i] * row[j] for i in range(len(state)) for j in range(4))
                for h in range(layer.out_features)
            ]
            pooled += [component.sum() for component in state]
        torch.testing.assert_close(logit, torch.stack(pooled) @ cin.output.weight[0] + cin.output.bias[0])


def test_squeeze_excitation_by_loops():
    layer, e = SqueezeExcitation(6), torch.randn(3, 6, 4)
    first, second = layer.excitation[0].weight, layer.excitation[2].weight
    assert first.shape == (2, 6)
    for row, result in zip(e, layer(e), strict=True):
        squeezed = torch.stack([row[i].mean() for i in range(6)])
        weights = torch.relu(second @ torch.relu(first @ squeezed))
        torch.testing.assert_close(result, torch.stack([weights[i] * row[i] for i in range(6)]))


def test_bilinear_products_by_loops():
    layer, e = BilinearProducts(4, 3), torch.randn(2, 4, 3)
    expected = [[(row[i] @ layer.weight[i]) * row[j] for i, j in combinations(range(4), 2)] for row in e]
    torch.testing.assert_close(layer(e), torch.stack([torch.stack(products) for products in expected]))


def test_gate_of_finalmlp_by_the_formula():
    """x * 2 sigmoid(W_2 relu(W_1 c + b_1) + b_2), for a context c that is the same for all rows."""
    gate, x = FeatureGate(3, width=5, hidden=4), torch.randn(2, 5)
    nn.init.normal_(gate.context)
    first, second = gate.mlp[0], gate.mlp[2]
    hidden = torch.relu(first.weight @ gate.context[0] + first.bias)
    factors = 2 / (1 + torch.exp(-(second.weight @ hidden + second.bias)))
    torch.testing.assert_close(gate(x), torch.stack([row * factors for row in x]))


def test_autoint_attention_by_loops():
    layer = FieldAttention(4, heads=2, head_dim=3)
    x = torch.randn(2, 4, 4)
    heads = []
    for head in range(2):
        part = slice(3 * head, 3 * head + 3)
        q, k, v = (getattr(layer, name).weight[part] for name in ("query", "key", "value"))
        scores = torch.softmax((x @ q.T) @ (x @ k.T).transpose(1, 2), dim=-1)
        heads.append(scores @ (x @ v.T))
    expected = torch.relu(torch.cat(heads, dim=-1) + x @ layer.residual.weight.T)
    torch.testing.assert_close(layer(x), expected)


def test_bilinear_fusion_by_loops():
    fusion = BilinearFusion(6, 4, heads=2)
    x, y = torch.randn(3, 6), torch.randn(3, 4)
    expected = fusion.linear_first(x).squeeze(1) + fusion.linear_second(y).squeeze(1)
    for head in range(2):
        a, b = x[:, 3 * head : 3 * head + 3], y[:, 2 * head : 2 * head + 2]
        expected = expected + ((a @ fusion.weight[head]) * b).sum(1)
    torch.testing.assert_close(fusion(x, y), expected)
    with pytest.raises(ValueError, match="heads=5"):
        BilinearFusion(6, 4, heads=5)


def test_one_field_is_refused():
    with pytest.raises(ValueError, match="two fields"):
        FNN((5,))


@pytest.mark.parametrize(
    ("make", "arguments", "message"),
    [
        (FNN, {"embedding_dim": 0}, "model.embedding_dim"),
        (FNN, {"embedding_dim": 2.5}, "model.embedding_dim"),
        (FNN, {"hidden": (8, 0)}, "model.hidden"),
        (FNN, {"dropout": -1.0}, "model.dropout must be a number in"),
        (AutoInt, {"dropout": 1.5}, "model.dropout must be a number in"),
        (DCN, {"hidden": ()}, "model.hidden must name"),
        (DCN, {"layers": 0}, "model.layers"),
        (XDeepFM, {"maps": ()}, "model.maps must name"),
        (XDeepFM, {"maps": (4, -1)}, "model.maps"),
        (AutoInt, {"heads": 0}, "model.heads"),
        (FinalMLP, {"hidden_second": ()}, "model.hidden_second must name"),
        (FiBiNET, {"reduction": 0.0}, "model.reduction"),
    ],
)
def test_sizes_without_a_network_are_refused(make, arguments, message):
    with pytest.raises(ValueError, match=message):
        make((3, 4), **arguments)


# ---- FuxiCTR and DeepCTR-Torch, which are no dependencies of the project ----


def fuxictr_layer(file: str, name: str):
    """Class of a file of FuxiCTR, loaded by path: the package itself needs libraries that are not installed."""
    spec = importlib.util.find_spec("fuxictr")
    if spec is None:
        pytest.skip("fuxictr is not installed")
    path = Path(spec.submodule_search_locations[0]) / "pytorch" / "layers" / file
    module_spec = importlib.util.spec_from_file_location(f"fuxictr_{name}", path)
    module = importlib.util.module_from_spec(module_spec)
    module_spec.loader.exec_module(module)
    return getattr(module, name)


def copy_weights(source: nn.Module, target: nn.Module) -> nn.Module:
    """Copy parameters in order, reshaping where two libraries store the same numbers differently."""
    for mine, theirs in zip(source.parameters(), target.parameters(), strict=True):
        theirs.data.copy_(mine.data.view_as(theirs))
    return target


@pytest.mark.parametrize(("mine", "theirs"), [(DCN, "CrossNet"), (DCNV2, "CrossNetV2")])
def test_cross_layers_equal_fuxictr(mine, theirs):
    network = mine(SIZES, **SMALL)
    reference = fuxictr_layer("interactions/cross_net.py", theirs)(16, 3)
    layers = reference.cross_net if theirs == "CrossNet" else reference.cross_layers
    for number, layer in enumerate(layers):
        nn.init.normal_(network.cross_biases[number])
        (layer if theirs == "CrossNetV2" else layer.weight).weight.data.copy_(network.cross_layers[number].weight.data)
        layer.bias.data.copy_(network.cross_biases[number].data)
    x = torch.randn(5, 16)
    torch.testing.assert_close(network.cross(x), reference(x))


def test_cin_equals_fuxictr():
    cin = CIN(4, (3, 2))
    reference = fuxictr_layer("interactions/compressed_interaction_net.py", "CompressedInteractionNet")(4, [3, 2])
    for mine, theirs in zip(cin.layers, reference.cin_layer.values(), strict=True):
        theirs.load_state_dict({"weight": mine.weight.unsqueeze(2), "bias": mine.bias})
    reference.fc.load_state_dict(cin.output.state_dict())
    x = torch.randn(5, 4, 6)
    torch.testing.assert_close(cin(x), reference(x).squeeze(1))


def test_squeeze_excitation_and_bilinear_products_equal_fuxictr():
    reference = fuxictr_layer("attentions/squeeze_excitation.py", "SqueezeExcitation")(6)
    mine = SqueezeExcitation(6)
    copy_weights(mine, reference)
    x = torch.randn(5, 6, 4)
    torch.testing.assert_close(mine(x), reference(x))
    bilinear = BilinearProducts(6, 4)
    reference = fuxictr_layer("interactions/bilinear_interaction.py", "BilinearInteraction")(6, 4, "field_each")
    reference.bilinear_W.data.copy_(bilinear.weight.data)
    torch.testing.assert_close(bilinear(x), reference(x))


def test_inner_products_equal_fuxictr():
    reference = fuxictr_layer("interactions/inner_product.py", "InnerProductInteraction")(4, output="inner_product")
    network = IPNN(SIZES, **SMALL)
    x = torch.randn(5, 4, 4)
    torch.testing.assert_close(network.products(x), reference(x))


def test_attention_and_products_equal_deepctr():
    layers = pytest.importorskip("deepctr_torch.layers.interaction", exc_type=ImportError)
    mine = FieldAttention(4, heads=2, head_dim=2)
    reference = layers.InteractingLayer(4, head_num=2, use_res=True, scaling=False)
    for name, target in {"query": "W_Query", "key": "W_key", "value": "W_Value", "residual": "W_Res"}.items():
        getattr(reference, target).data.copy_(getattr(mine, name).weight.data.T)
    x = torch.randn(5, 3, 4)
    torch.testing.assert_close(mine(x), reference(x))
    fm = layers.FM()(x).squeeze(1)
    torch.testing.assert_close(FM((2, 2, 2), 4).pair_term(x, None), fm)
