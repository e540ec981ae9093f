"""What the U-Net of stage 1 or 2 starts from, and what becomes of every tensor of that file."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from latentsync.weights import layouts
from latentsync.weights.files import is_finite, listed


@dataclass(frozen=True)
class Start:
    """What became of the weights that a U-Net starts from; all three are names of tensors."""

    taken: list[str]
    fresh: list[str]
    """In the network, not in the file (or of another shape there)."""
    unused: list[str]
    """In the file, not in the network."""

    def __str__(self) -> str:
        told = [f"{len(self.taken)} tensors taken"]
        told += [f"{len(keys)} {what} ({listed(keys)})" for keys, what in (
            (self.fresh, "start fresh"), (self.unused, "of the file have no place")) if keys]  # fmt: skip
        return "; ".join(told)


_OPTIONAL = re.compile(r"conv_in\.|conv_out\.|.*attn2\.to_[kv]\.|.*motion_modules\.")


def start_unet(unet: nn.Module, state: Mapping[str, Tensor], what: str) -> Start:
    """Start a U-Net from SD 1.5, or from a LatentSync checkpoint with more or fewer motion modules.

    As published, conv_in, conv_out and the audio keys and values are taken only where their shapes fit (SD 1.5 has 4
    input channels and 768-wide text); conv_in starts at zero then. Motion modules start fresh where the file has none.

    Raises:
        ValueError: anything else is missing, unexpected or of another shape. The network is as it was.
    """
    own = unet.state_dict()
    fits = {key: value for key, value in state.items() if key in own and value.shape == own[key].shape}
    if "conv_in.weight" not in fits:
        fits.pop("conv_in.bias", None)
    fresh, unused = [key for key in own if key not in fits], [key for key in state if key not in own]
    wrong = [key for key in fresh + unused if not _OPTIONAL.match(key)]
    broken = [key for key, value in fits.items() if not (value.is_floating_point() and is_finite(value))]
    if wrong or broken:
        faults = ((wrong, "missing, unexpected or of another shape"), (broken, "not finite numbers"))
        told = "; ".join(f"{len(keys)} tensors are {fault} ({listed(keys)})" for keys, fault in faults if keys)
        looks = layouts.recognise(state)
        raise ValueError(f"{what} does not start this U-Net: {told}." + (f" {looks}" if looks else ""))
    unet.load_state_dict(fits, strict=False)
    if "conv_in.weight" in fresh:
        nn.init.zeros_(unet.conv_in.weight)
        nn.init.zeros_(unet.conv_in.bias)
    return Start([key for key in own if key in fits], fresh, unused)
