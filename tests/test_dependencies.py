"""A package is declared if and only if it is imported, and an environment holds what its steps import."""

import ast
import os
import re
import subprocess
import sys
import tomllib

import pytest

from envs.generate import ROOT, environments, found_for_data, packages_distributions, reached, steps_of

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
# Not imported here, but run: the workflow's executors, the tools of `make test`, and what programs in tests import.
RUN_BY_NAME = {
    "basedpyright",
    "codespell",
    "packaging",
    "pre-commit",
    "pytest-timeout",
    "pytest-xdist",
    "ruff",
    "snakefmt",
    "snakemake-executor-plugin-cluster-generic",
    "snakemake-executor-plugin-slurm",
    "webdataset",
}
OURS = {"latentsync", "tests", "benchmarks", "envs"}
ELSEWHERE = {"gfpgan"}  # imported in the environment of `make setup-parity`
# Extras outside the lock, and what comes with them.
ABSENT = {"insightface": "insightface", "spandrel_extra_arches": "spandrel-extra-arches", "onnx": "insightface"}


def declared(*groups: str) -> set[str]:
    lines = [line for group in groups for line in (EXTRAS[group] if group else PROJECT["dependencies"])]
    return {re.match(r"[A-Za-z0-9._-]+", line).group().lower() for line in lines}


def imported(*folders: str) -> set[str]:
    """Distributions that the Python files and rules of these folders import, or read a data file of."""
    names = set()
    for folder in folders:
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Import):
                    names |= {alias.name.split(".")[0] for alias in node.names}
                elif isinstance(node, ast.ImportFrom):
                    names.add(node.module.split(".")[0])
                elif isinstance(node, ast.Call):
                    names |= found_for_data(node)
        for path in (ROOT / folder).rglob("*.smk"):
            names |= set(re.findall(r"^(?:from|import) (\w+)", path.read_text(), re.MULTILINE))
    known = packages_distributions()
    others = names - sys.stdlib_module_names - OURS - ELSEWHERE
    return {ABSENT.get(name) or known[name][0].lower().replace("_", "-") for name in others}


def test_the_package_declares_what_it_imports_and_nothing_else():
    wanted = declared("", "workflow", "app", "restorers", "codeformer", "insightface")
    assert imported("latentsync") == wanted - RUN_BY_NAME


def test_the_tests_declare_the_rest():
    rest = imported("tests", "benchmarks", "envs", "workflow") - imported("latentsync")
    assert rest == declared("dev") - RUN_BY_NAME
    assert RUN_BY_NAME <= declared("workflow", "dev")


def test_environment_files_are_current():
    found = {path.stem: path.read_text() for path in (ROOT / "envs").glob("*.yaml")}
    assert found == environments(), "run python envs/generate.py"


IMPORT_ALL = """
import importlib, importlib.util, sys
from importlib.machinery import PathFinder
from importlib.metadata import distribution, packages_distributions
from packaging.requirements import Requirement

pins, modules, others = (argument.split() for argument in sys.argv[1:])
installed, waiting = set(), [(name, "") for name in pins]
while waiting:  # what pip brings with the pinned packages
    name, extra = waiting.pop()
    if (name, extra) in installed:
        continue
    installed.add((name, extra))
    for line in distribution(name).requires or []:
        need = Requirement(line)
        if need.marker is None or need.marker.evaluate({"extra": extra}):
            try:
                distribution(need.name)
            except ModuleNotFoundError:
                continue  # overridden away in the lock
            waiting += [(need.name, extra) for extra in need.extras or [""]]
names = {name.lower().replace("_", "-") for name, _ in installed}
belongs_to = {
    module: {name.lower().replace("_", "-") for name in found} for module, found in packages_distributions().items()
}

class Finder(PathFinder):  # libraries ask for optional packages: a hidden one is one that does not exist
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        top = name.split(".")[0]
        hidden = top in belongs_to and not belongs_to[top] & names and top != "latentsync"
        return None if hidden else super().find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = Finder
for module in others:  # imported late, by a function: present is enough
    assert importlib.util.find_spec(module), f"No module named {module}"
for module in modules:
    importlib.import_module(module)
"""


@pytest.mark.parametrize("name", steps_of())
def test_every_step_imports_in_its_environment_from_any_folder(name, tmp_path):
    """With every package hidden that the environment does not bring, and what functions import later included."""
    ours, others = map(set.union, *(reached(f"latentsync.steps.{step}") for step in sorted(steps_of()[name])))
    pins = re.findall(r"- ([a-z0-9-]+)==", environments()[name])
    command = [sys.executable, "-c", IMPORT_ALL, " ".join(pins), " ".join(sorted(ours)), " ".join(sorted(others))]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_an_environment_that_lacks_a_package_is_noticed(tmp_path):
    command = [sys.executable, "-c", IMPORT_ALL, "numpy", "latentsync.media.scenes", ""]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode != 0 and "No module named" in done.stderr
