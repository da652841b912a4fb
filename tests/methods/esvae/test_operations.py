import pytest
import torch
from torch import nn

from methods.esvae.ann import ANNVAE
from methods.esvae.fsvae import FSVAE
from methods.esvae.networks import ESVAE
from methods.esvae.operations import Operations, count_operations, layer_operations, synapses_used


def spikes(*shape, rate=0.3):
    return (torch.rand(*shape, generator=torch.Generator().manual_seed(0)) < rate).float()


LAYERS = {
    "linear": (nn.Linear(6, 4), (5, 6)),
    "convolution": (nn.Conv2d(3, 4, 3, stride=2, padding=1), (5, 3, 6, 6)),
    "transposed": (nn.ConvTranspose2d(3, 4, 3, stride=2, padding=1, output_padding=1), (5, 3, 4, 4)),
    "last": (nn.ConvTranspose2d(3, 1, 3, padding=1), (5, 3, 4, 4)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_synapses_are_counted_one_by_one(name):
    layer, shape = LAYERS[name]
    x = spikes(*shape)
    expected = 0
    layer = type(layer)(**_arguments(layer), bias=False)
    layer.weight.data.fill_(1.0)
    for place in x.nonzero().tolist():
        alone = torch.zeros_like(x)
        alone[tuple(place)] = 1
        expected += int((layer(alone) != 0).sum())
    assert synapses_used(layer, x) == expected > 0


def _arguments(layer):
    if isinstance(layer, nn.Linear):
        return {"in_features": layer.in_features, "out_features": layer.out_features}
    names = ("in_channels", "out_channels", "kernel_size", "stride", "padding")
    names += ("output_padding",) if isinstance(layer, nn.ConvTranspose2d) else ()
    return {name: getattr(layer, name) for name in names}


def test_spikes_cost_additions_and_real_inputs_multiplications():
    layer = nn.Linear(6, 4)
    assert layer_operations(layer, spikes(5, 6), 3) == Operations(3 * 4 * float(spikes(5, 6).sum()), 0.0)
    assert layer_operations(layer, torch.randn(5, 6), 3) == Operations(0.0, 3 * 5 * 6 * 4)


def test_energy_is_in_microjoules():
    assert Operations(1e6, 2e6).energy == pytest.approx(0.9 + 2 * 4.6)


def test_every_layer_of_a_spiking_network_is_counted_once():
    torch.manual_seed(0)
    network = ESVAE(1, 16, widths=(4, 6), latent_dim=5, steps=7).eval()
    x = torch.rand(3, 1, 16, 16) * 2 - 1
    counts = count_operations(network, lambda: network.decode(network.encode(x).latents))
    assert list(counts) == [
        *("encoder.convs.0", "encoder.convs.1", "encoder.latent", "prior"),
        *("decoder.input", "decoder.deconvs.0", "decoder.deconvs.1", "decoder.readout"),
    ]
    neurons = 7 * 3 * 4 * 8 * 8
    first = synapses_used(network.encoder.convs[0].layer, torch.ones_like(x))
    assert counts["encoder.convs.0"] == Operations(neurons, 7 * first + neurons)  # the image at every step
    assert counts["prior"].multiplications == 3 * 5 * 5  # sums real-valued noise
    assert counts["decoder.readout"].multiplications == 0
    spiking = [count for name, count in counts.items() if name.startswith("decoder.deconvs")]
    assert [count.multiplications for count in spiking] == [7 * 3 * 4 * 8 * 8, 7 * 3 * 4 * 16 * 16]
    again = count_operations(network, lambda: network.encoder(x))
    assert again["encoder.convs.0"] == counts["encoder.convs.0"]


def test_an_ordinary_network_multiplies_only():
    network, x = ANNVAE(1, 16, widths=(4, 6), latent_dim=5).eval(), torch.rand(3, 1, 16, 16)
    counts = count_operations(network, lambda: network.decode(network.encode(x).latents))
    assert sum(count.additions for count in counts.values()) == 0
    assert counts["decoder_input"].multiplications == 3 * 5 * 6 * 4 * 4


def test_the_networks_of_fsvae_are_counted():
    network = FSVAE(1, 16, widths=(4, 6), latent_dim=5, steps=7, k=3).eval()
    counts = count_operations(network, lambda: network.encode(torch.rand(3, 1, 16, 16)))
    assert {"posterior.blocks.0", "prior.blocks.2"} <= counts.keys()
    assert counts["prior.blocks.2"].multiplications == 7 * 3 * 15  # decays of the neurons
