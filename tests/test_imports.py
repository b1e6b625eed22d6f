"""Who may import whom, read from the source: mathematics is pure torch, and the layers depend downwards only."""

from __future__ import annotations

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODALITIES = sorted(p.name for p in (ROOT / "modalities").iterdir() if (p / "__init__.py").is_file())
HEAVY = {"lightning", "hydra", "omegaconf", "torch_geometric", "rdkit", "e3nn", "torchaudio", "matplotlib"}

# a module of the mathematics, a file or a folder of them, imports only modules of a lower rank
RANKS = {
    "batch": 0,
    "random": 0,
    "schedules": 0,
    "prediction": 1,
    "space": 1,
    "process": 1,
    "codec": 1,
    "levels": 1,
    "times": 2,
    "weighting": 2,
    "reverse": 2,
    "denoiser": 3,
    "guidance": 4,
    "samplers": 4,
    "editing": 5,
    "likelihood": 4,
    "objective": 4,
    "fitting": 5,
    "metrics": 0,
}
# so does everything around it, which Lightning, Hydra and files may enter
PLUMBING = {
    "errors": 0,
    "peers": 0.5,
    "plots": 0,
    "progress": 0,
    "watching": 1,
    "tree": 0,
    "tensor_files": 1,
    "digests": 1,
    "cli": 1,
    "shipped": 0,
    "cache": 0,
    "splits": 1,
    "pulse": 2,
    "folders": 2,
    "weights": 2,
    "features": 3,
    "config": 1,
    "data": 1,
    "editable": 1,
    "modality": 2,
    "checkpoint": 2,
    "runs": 3,
    "settings": 1,
    "shards": 1,
    "checkpoint_io": 3,
    "build": 6,
    "module": 5,
    "descent": 6,
    "model": 7,
    "budget": 6,
    "sharding": 6,
    "termination": 0,
    "clipping": 7,
    "callbacks": 8,
    "diagnosis": 5,
    "recorder": 7,
    "replay": 8,
    "resume": 6,
    "output": 8,
    "evaluation": 9,
    "sample": 10,
    "fit": 10,
    "edits": 11,
    "edit": 12,
    "evaluate": 11,
    "export": 11,
    "train": 11,
}
LEAVES = {"batch", "schedules", "space", "prediction", "times"}


def sources(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def imports(path: Path) -> set[str]:
    """The absolute names of the modules that a file imports anywhere, also inside its functions."""
    found = set()
    parents = path.relative_to(ROOT).with_suffix("").parts[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = list(parents[: len(parents) - node.level + 1]) if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            found |= {module} | {f"{module}.{alias.name}" for alias in node.names}
    return found


def files(module: str) -> list[Path]:
    """The files of a module of core: one, or all those of its folder."""
    path = ROOT / "core" / f"{module}.py"
    return [path] if path.is_file() else sources(f"core/{module}")


def of_project(module: str) -> set[str]:
    """The other modules of core that a module's files import."""
    names = [name.split(".") for path in files(module) for name in imports(path)]
    return {parts[1] for parts in names if parts[0] == "core" and len(parts) > 1} - {module}


def of_core(path: Path) -> set[str]:
    """The modules of the mathematics among a file's imports."""
    parts = [name.split(".") for name in imports(path)]
    return {p[1] for p in parts if p[0] == "core" and len(p) > 1 and p[1] in RANKS}


def below(path: Path, package: str) -> bool:
    return any(name == package or name.startswith(f"{package}.") for name in imports(path))


def test_the_reader_sees_every_form_of_import(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    file = tmp_path / "core" / "layers" / "x.py"
    file.parent.mkdir(parents=True)
    inside = "def f():\n    from ..space import Space\n    from . import y\n"
    file.write_text(f"import a.b\nfrom core import batch\n{inside}")
    assert {"a.b", "core.batch", "core.space", "core.layers.y"} <= imports(file)


@pytest.mark.parametrize("module", RANKS)
def test_mathematics_is_pure_torch(module):
    names = {name.split(".")[0] for path in files(module) for name in imports(path)}
    assert names
    assert names <= set(sys.stdlib_module_names) | {"torch", "jaxtyping", "core"}


@pytest.mark.parametrize("module", RANKS)
def test_mathematics_depends_downwards(module):
    assert of_project(module) <= RANKS.keys(), "the mathematics imports something that is not"
    assert {other for other in of_project(module) if RANKS[other] >= RANKS[module]} == set()


@pytest.mark.parametrize("module", PLUMBING)
def test_plumbing_depends_downwards(module):
    ranks = RANKS | PLUMBING
    assert {other for other in of_project(module) if ranks[other] >= ranks[module]} == set()


def test_every_file_of_core_has_a_rank():
    """But `layers`: see `test_networks_know_no_diffusion`."""
    found = {path.relative_to(ROOT / "core").with_suffix("").parts[0] for path in sources("core")}
    assert found - {"__init__", "layers"} == RANKS.keys() | PLUMBING.keys()


@pytest.mark.parametrize("module", [module for module in RANKS | PLUMBING if len(files(module)) > 1])
def test_the_files_of_a_folder_import_each_other_in_one_direction(module):
    known = {f"core.{module}.{path.stem}" for path in files(module)}
    graph = {f"core.{module}.{path.stem}": imports(path) & known for path in files(module)}
    assert any(graph.values())
    list(graphlib.TopologicalSorter(graph).static_order())  # CycleError names the files of a circle


@pytest.mark.parametrize("leaf", sorted(LEAVES))
def test_leaves_do_not_know_the_denoiser(leaf):
    assert not of_core(ROOT / "core" / f"{leaf}.py") & {"denoiser", "guidance", "samplers", "likelihood", "reverse"}


@pytest.mark.parametrize("path", sources("core/layers"), ids=lambda p: p.stem)
def test_networks_know_no_diffusion(path):
    assert of_core(path) <= {"batch"}
    assert not {name.split(".")[0] for name in imports(path)} & HEAVY


@pytest.mark.parametrize("path", sources("core"), ids=lambda p: str(p.relative_to(ROOT)))
def test_core_knows_no_modality(path):
    for package in ("modalities", "benchmarks", "tests", "torch_geometric", "rdkit", "e3nn", "torchaudio"):
        assert not below(path, package), package


@pytest.mark.parametrize("path", sources("modalities"), ids=lambda p: str(p.relative_to(ROOT)))
def test_modalities_know_no_sibling(path):
    own = path.relative_to(ROOT / "modalities").parts[0]
    assert not any(below(path, f"modalities.{other}") for other in MODALITIES if other != own)
    assert not below(path, "benchmarks")


def fresh(code: str) -> str:
    """What a new interpreter prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_import_core_is_lazy():
    unwanted = sorted({"torch", "numpy", *HEAVY})
    assert fresh(f"import sys, core; print([name for name in {unwanted} if name in sys.modules])") == "[]"


def test_the_mathematics_loads_nothing_but_torch():
    modules = ", ".join(f"core.{module}" for module in RANKS)
    assert fresh(f"import sys, {modules}; print(sorted(set({sorted(HEAVY)}) & set(sys.modules)))") == "[]"


def test_sampling_loads_no_lightning():
    """It would cost a newcomer's first samples some seconds."""
    commands = "core.sample, core.edit, core.evaluate, core.output, core.edits, core.evaluation"
    assert fresh(f"import sys, {commands}; print('lightning' in sys.modules)") == "False"
