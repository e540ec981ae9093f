"""A U-Net whose calls are replayed: one launch in place of the 1,800 operations of a forward pass (batch size 1).

Inputs of fixed shapes lie at fixed places of the GPU's memory, so the operations between them are recorded once as a
CUDA graph. The same kernels run in the same order.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from latentsync.models.unet import UNet3D

WARM_UP = 2  # calls before recording, in which libraries choose kernels and take their memory


@dataclass
class Recorded:
    """One graph, and the places of its inputs and outputs."""

    graph: torch.cuda.CUDAGraph
    inputs: list[Tensor | None]
    outputs: tuple[Tensor, Tensor]
    heard: Any
    """The keys and values that lie at the places now; they are copied once per batch of windows."""


class Replayed:
    """A `sampling.Unet` of full windows with the results of `unet`.

    One graph is recorded for each number of windows, with and without guidance and reuse; they share memory. Shorter
    windows, at the end of a short stretch, are computed without a graph.
    """

    def __init__(self, unet: UNet3D, frames: int, mode: Literal["graph", "compile"]):
        """`frames`: of a full window. Mode compile: torch.compile first; without a GPU that is all that is done."""
        self.unet, self.frames = unet, frames
        self.function: Callable[..., tuple[Tensor, Tensor]] = unet.predict
        if mode == "compile":
            self.function = torch.compile(unet.predict, dynamic=False)
        self.records = unet.conv_in.weight.device.type == "cuda"
        self.graphs: dict[Any, Recorded] = {}
        self.pool: Any = None

    def listen(self, audio: Tensor, /) -> Any:
        """As the network's."""
        return self.unet.listen(audio)

    def predict(
        self, sample: Tensor, timesteps: Tensor, heard: Any, deep: Tensor | None = None, /
    ) -> tuple[Tensor, Tensor]:
        """As the network's."""
        if sample.shape[2] != self.frames:
            return self.unet.predict(sample, timesteps, heard, deep)
        if not self.records:
            return self.function(sample, timesteps, heard, deep)
        own = [sample, timesteps] if deep is None else [sample, timesteps, deep]
        keys, structure = pytree.tree_flatten(heard)
        shapes = tuple(tuple(one.shape) for one in [*own, *keys[:1]]), len(own)
        if shapes not in self.graphs:
            self.graphs[shapes] = self._record(own, keys, structure)
        recorded = self.graphs[shapes]
        for place, given in zip(recorded.inputs, own if recorded.heard is heard else own + keys, strict=False):
            if place is not None:
                place.copy_(given)
        recorded.heard = heard
        recorded.graph.replay()
        noise, deep = recorded.outputs
        return noise.clone(), deep.clone()  # the next replay overwrites them

    def _record(self, own: list[Tensor], keys: list[Tensor | None], structure: Any) -> Recorded:
        """Keys of zero tokens are None where their values are zero."""
        inputs = [one if one is None else one.clone() for one in own + keys]

        def call() -> tuple[Tensor, Tensor]:
            sample, timesteps, *deep = inputs[: len(own)]
            heard = pytree.tree_unflatten(inputs[len(own) :], structure)
            return self.function(sample, timesteps, heard, deep[0] if deep else None)

        side = torch.cuda.Stream()  # recording needs one; memory taken in warming up belongs to it
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_UP):
                call()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        self.pool = self.pool or torch.cuda.graph_pool_handle()
        # Other threads may use the GPU meanwhile: only calls of this one must be recordable.
        with torch.cuda.graph(graph, pool=self.pool, capture_error_mode="thread_local"):
            outputs = call()
        return Recorded(graph, inputs, outputs, None)
