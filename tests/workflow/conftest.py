"""Run Snakemake as a user does, in a temporary folder."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def snakemake(tmp_path):
    """`snakemake("-n", "curate")` runs in a temporary working directory and returns the finished process."""

    def call(
        *args: str, configfile: str | Path | None = ROOT / "config/config.yaml", cwd: Path = tmp_path, timeout=900
    ):
        command = [sys.executable, "-m", "snakemake", "--snakefile", ROOT / "Snakefile", "--cores", "2"]
        command += ["--directory", cwd] + (["--configfile", configfile] if configfile else [])
        command += ["--profile", ROOT / "profiles/default"] if "--workflow-profile" not in args else []
        return subprocess.run(
            [str(part) for part in [*command, *args]],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    return call
