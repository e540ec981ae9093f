"""Initialise the U-Net of stage 1 or 2 from a file, with an account of every tensor."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from latentsync.weights import layouts
from latentsync.weights.files import is_finite, listed


@dataclass(frozen=True)
class Start:
    """What was done with each tensor; all three lists are names of tensors."""

    taken: list[str]
    fresh: list[str]
    """In the network, but not in the file, or there with another shape."""
    unused: list[str]
    """In the file, but not in the network."""

    def __str__(self) -> str:
        parts = [f"{len(self.taken)} tensors loaded"]
        parts += [f"{len(keys)} {what} ({listed(keys)})" for keys, what in (
            (self.fresh, "start from scratch"), (self.unused, "of the file unused")) if keys]  # fmt: skip
        return "; ".join(parts)


_OPTIONAL = re.compile(r"conv_in\.|conv_out\.|.*attn2\.to_[kv]\.|.*motion_modules\.")


def start_unet(unet: nn.Module, state: Mapping[str, Tensor], what: str) -> Start:
    """Initialise a U-Net from SD 1.5, or from a LatentSync U-Net with more or fewer motion modules.

    As published, conv_in, conv_out and the audio keys and values are loaded only if their shapes match (SD 1.5 has 4
    input channels and 768-wide text embeddings); otherwise conv_in starts at zero. Motion modules that the file lacks
    keep their random initialisation.

    Raises:
        ValueError: another tensor is missing, unexpected, of another shape or non-finite. The network is unchanged.
    """
    own = unet.state_dict()
    fits = {key: value for key, value in state.items() if key in own and value.shape == own[key].shape}
    if "conv_in.weight" not in fits:
        fits.pop("conv_in.bias", None)
    fresh, unused = [key for key in own if key not in fits], [key for key in state if key not in own]
    wrong = [key for key in fresh + unused if not _OPTIONAL.match(key)]
    broken = [key for key, value in fits.items() if not (value.is_floating_point() and is_finite(value))]
    if wrong or broken:
        problems = ((wrong, "missing, unexpected or of another shape"), (broken, "non-finite or of another type"))
        listing = "; ".join(f"{len(keys)} tensors are {problem} ({listed(keys)})" for keys, problem in problems if keys)
        looks = layouts.recognise(state)
        raise ValueError(f"{what} does not fit this U-Net: {listing}." + (f" {looks}" if looks else ""))
    unet.load_state_dict(fits, strict=False)
    if "conv_in.weight" in fresh:
        nn.init.zeros_(own["conv_in.weight"])
        nn.init.zeros_(own["conv_in.bias"])
    return Start([key for key in own if key in fits], fresh, unused)
