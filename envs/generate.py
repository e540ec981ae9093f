"""Write envs/{curate,train,deliver}.yaml: what a group of rules imports, pinned as in requirements.lock.

`python envs/generate.py` after `make lock`; a test compares. pip inside conda knows no overrides, so mediapipe brings
its own OpenCV there; the one virtual environment of `make setup` is the tested way.
"""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
COMMON = "av numpy opencv-python-headless pandas pydantic pyyaml scipy".split()
NEEDS = {
    "curate": COMMON
    + "mediapipe face-alignment scenedetect pyiqa torch torchvision safetensors scikit-image librosa".split()
    + "imagehash webrtcvad-wheels jinja2".split(),
    "train": COMMON + "torch torchvision accelerate diffusers transformers safetensors lpips einops librosa".split(),
    "deliver": COMMON
    + "mediapipe face-alignment torch torchvision diffusers transformers safetensors einops librosa".split()
    + "spandrel onnxruntime pyiqa matplotlib jinja2".split(),
}


def environments() -> dict[str, str]:
    """The text of each environment file, by name."""
    pins = dict(re.findall(r"^([a-z0-9-]+)==([^ ;]+)", (ROOT / "requirements.lock").read_text(), re.MULTILINE))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = project["dependencies"] + project["optional-dependencies"]["restorers"]
    direct = {re.match(r"[A-Za-z0-9-]+", line).group() for line in declared}
    texts = {}
    for name, packages in NEEDS.items():
        assert set(packages) <= direct, set(packages) - direct
        lines = "".join(f"      - {package}=={pins[package]}\n" for package in sorted(packages))
        texts[name] = f"channels:\n  - conda-forge\ndependencies:\n  - python=3.11\n  - pip\n  - pip:\n{lines}"
    return texts


if __name__ == "__main__":
    for name, text in environments().items():
        (ROOT / "envs" / f"{name}.yaml").write_text(text)
