"""Replayed calls give what the network gives, whatever is asked for in which order."""

import jaxtyping
import pytest
import torch

from latentsync.generation import sampling
from latentsync.generation.graphs import Recorded, Replayed
from latentsync.models.unet import UNet3D, UNetConfig

FRAMES = 4


def network(positions: bool = True) -> UNet3D:
    torch.manual_seed(0)
    shape = UNetConfig(
        block_out_channels=(16, 16),
        layers_per_block=1,
        cross_attention_dim=16,
        attention_heads=2,
        norm_groups=8,
        audio_positions=positions,
    )
    net = UNet3D(shape).eval().requires_grad_(False)
    torch.nn.init.normal_(net.conv_out.weight, std=0.1)
    return net


def drawn(unet, frames: int, windows: int, seed: int, device: str, dtype: torch.dtype) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    faces = torch.randn(windows, frames, 4, 8, 8, generator=generator).to(device)
    audio = torch.randn(windows, frames, 5, 16, generator=generator).to(device, dtype)
    noise, mask = sampling.shared_noise(1, 8, 8).to(device), torch.ones(8, 8, device=device)
    settings = {"steps": 4, "guidance": 1.5, "guided": (0.0, 0.5), "reuse": 3}
    return sampling.denoise(unet, noise, mask, faces, faces, audio, **settings)


def in_place(unet: Replayed):
    """What a graph does, without a GPU: computes from its own inputs into its own outputs."""

    class Graph:
        def replay(self):
            for place, result in zip(self.outputs, self.compute(), strict=True):
                place.copy_(result)

    def record(own, keys, structure):
        inputs, graph = [one if one is None else one.clone() for one in own + keys], Graph()

        def compute():
            sample, timesteps, *deep = inputs[: len(own)]
            heard = torch.utils._pytree.tree_unflatten(inputs[len(own) :], structure)
            return unet.function(sample, timesteps, heard, *deep)

        graph.compute, graph.outputs = compute, tuple(one.clone() for one in compute())
        return Recorded.__new__(Recorded), graph, inputs

    def recorded(own, keys, structure):
        result, graph, inputs = record(own, keys, structure)
        result.graph, result.inputs, result.outputs, result.heard = graph, inputs, graph.outputs, None
        return result

    return recorded


@pytest.mark.parametrize("positions", [False, True])  # without them zero tokens have no keys, as in published weights
def test_replayed_calls_follow_their_inputs(monkeypatch, positions):
    net = network(positions)
    replayed = Replayed(net, FRAMES, "graph")
    monkeypatch.setattr(replayed, "records", True)
    monkeypatch.setattr(replayed, "_record", in_place(replayed))
    for frames, windows, seed in ((4, 2, 0), (4, 2, 1), (3, 2, 2), (4, 1, 3), (4, 2, 4)):
        given = frames, windows, seed, "cpu", torch.float32
        assert torch.equal(drawn(replayed, *given), drawn(net, *given))
    # With guidance, with guidance from what is reused, and without from that; in the last step everything is computed.
    assert len(replayed.graphs) == 2 * 4


@pytest.mark.needs_cuda
@pytest.mark.parametrize(("mode", "positions"), [("graph", False), ("graph", True), ("compile", False)])
def test_graphs_of_a_gpu_give_what_the_network_gives(monkeypatch, mode, positions):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", mode == "compile")  # annotations cannot be compiled
    net = network(positions).to("cuda", torch.float16)
    replayed = Replayed(net, FRAMES, mode)
    for frames, windows, seed in ((4, 2, 0), (4, 2, 1), (3, 2, 2), (4, 1, 3), (4, 2, 4)):
        given = frames, windows, seed, "cuda", torch.float16
        away = 1e-2 if mode == "graph" else 5e-2  # fused kernels round less often
        torch.testing.assert_close(drawn(replayed, *given), drawn(net, *given), atol=away, rtol=away)
    assert len(replayed.graphs) == 2 * 4
