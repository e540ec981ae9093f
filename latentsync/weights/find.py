"""From what a user calls weights (a run, a release, a folder, a file) to the files of U-Net and VAE. No torch here."""

from pathlib import Path

from latentsync.weights import registry

RUN_FILES = {"unet": "train_unet_stage2/unet.safetensors", "vae": "train_vae/vae.safetensors"}  # of a run's folder
PUBLISHED_FILES = {"unet": "latentsync_unet.pt", "vae": "sd-vae-ft-mse"}  # of a folder of published weights


def find_weights(weights: Path, vae: Path | None = None) -> tuple[Path, Path | None]:
    """The U-Net that `weights` names and its VAE; None: the published VAE of the weights folder.

    Args:
        weights: results/<run> of a finished run, a release of the registry such as latentsync-1.5, a folder of
            published weights, or a U-Net file.
        vae: a VAE to use instead of the one beside the U-Net.

    Raises:
        ValueError: there is no U-Net, or the VAE does not exist.
    """
    unet = weights
    if str(weights) in registry.entries() and not weights.exists():
        unet = registry.find(str(weights), key="generate --weights")
        found = registry.entry("vae").path
    elif weights.is_dir():
        places = [(weights / files["unet"], weights / files["vae"]) for files in (RUN_FILES, PUBLISHED_FILES)]
        place = next((place for place in places if place[0].is_file()), None)
        if place is None:
            raise ValueError(
                f"--weights {weights} holds neither {RUN_FILES['unet']} (a finished run) nor "
                f"{PUBLISHED_FILES['unet']} (published weights)."
            )
        unet, found = place
    elif weights.is_file():
        folder = weights.absolute().parent
        of_run = folder.name.startswith("train_unet_")
        found = folder.parent / RUN_FILES["vae"] if of_run else folder / PUBLISHED_FILES["vae"]
    else:
        raise ValueError(
            f"--weights {weights} does not exist; give results/<run> of a finished run, a U-Net file, or a release "
            "such as latentsync-1.5 (`latentsync weights list`)."
        )
    if vae is not None and not vae.exists():
        raise ValueError(f"--vae {vae} does not exist.")
    return unet, vae or (found if found.exists() else None)
