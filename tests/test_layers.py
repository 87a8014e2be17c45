"""The layers of the package: which folder may import which, and how large files may be."""

import ast
from collections import defaultdict
from pathlib import Path

import sogclr

ROOT = Path(sogclr.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))

# From bottom to top: a layer imports itself and the layers before it.
LAYERS = [
    "common",
    "distributed",
    "losses",
    "data",
    "models",
    "planning",
    "runs",
    "evaluation",
    "training",
    "auditing",
    "commands",
    "integrations",
]
TOP = [*LAYERS, "__init__", "__main__"]  # files at the top may import every layer
MOST_ENTRIES, MOST_LINES = 15, 300

# File names that occur in several layers, and why each layer needs its own.
SHARED_NAMES = {
    "images.py": "every layer above data has a part that is specific to images",
    "pairs.py": "every layer has a part that is specific to pairs",
    "folder.py": "data reads a folder of images, runs the folder of a run",
    "towers.py": "models defines towers, runs stores them",
}


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


MODULES = {module_of(path): path for path in FILES}


def imports_of(path: Path) -> set[Path]:
    """Return the files that a file imports, in functions and under TYPE_CHECKING too."""
    package = path.relative_to(ROOT).parent.parts
    result = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name.split(".") for alias in node.names]
            targets = [name[1:] for name in names if name[0] == "sogclr"]
        elif isinstance(node, ast.ImportFrom):
            module = node.module.split(".") if node.module else []
            if node.level:
                module = [*package[: len(package) - node.level + 1], *module]
            elif module[0] == "sogclr":
                module = module[1:]
            else:
                continue
            targets = [[*module, alias.name] for alias in node.names]
        else:
            continue
        for target in targets:
            # A target is a module, or a name in a module, or a name in a package.
            candidates = (".".join(target), ".".join(target[:-1]))
            result |= {MODULES[name] for name in candidates[:1] if name in MODULES} or {
                MODULES[name] for name in candidates[1:] if name in MODULES
            }
    return result - {path}


IMPORTS = {path: imports_of(path) for path in FILES}


def layer_of(path: Path) -> int:
    return TOP.index(path.relative_to(ROOT).with_suffix("").parts[0])


def test_every_folder_is_a_layer():
    folders = {path.name for path in ROOT.iterdir() if path.is_dir() and any(path.glob("*.py"))}
    assert folders == set(LAYERS)
    entries = [path for path in ROOT.iterdir() if path.name != "__pycache__"]
    assert len(entries) <= MOST_ENTRIES


def test_imports_are_found():
    loaders = IMPORTS[ROOT / "data" / "batches" / "loaders.py"]
    assert ROOT / "data" / "batches" / "schedule.py" in loaders
    assert ROOT / "data" / "views" / "crops.py" in loaders
    assert ROOT / "losses" / "__init__.py" in IMPORTS[ROOT / "__init__.py"]


def test_no_import_points_upwards():
    upward = {
        f"{relative(path)} imports {relative(target)}"
        for path, targets in IMPORTS.items()
        for target in targets
        if layer_of(target) > layer_of(path)
    }
    assert not upward


def test_no_files_import_each_other_in_a_circle():
    # Remove files that import only removed files, until no more can be removed.
    left = dict(IMPORTS)
    while free := [path for path, targets in left.items() if not targets & left.keys()]:
        for path in free:
            del left[path]
    # Likewise files that no remaining file imports: they only lead to a circle.
    while free := [path for path in left if not any(path in left[other] for other in left)]:
        for path in free:
            del left[path]
    assert not {relative(path) for path in left}


def test_file_names_tell_layers_apart():
    layers = defaultdict(set)
    for path in FILES:
        layers[path.name].add(layer_of(path))
    repeated = {name for name, where in layers.items() if len(where) > 1 and name[0] != "_"}
    assert repeated == set(SHARED_NAMES)


def test_files_are_short():
    lengths = {relative(path): len(path.read_text().splitlines()) for path in FILES}
    assert not {name for name, lines in lengths.items() if lines > MOST_LINES}


def test_every_layer_says_what_it_does():
    for path in FILES:
        if path.name == "__init__.py":
            tree = ast.parse(path.read_text())
            assert ast.get_docstring(tree), relative(path)
            code = len(tree.body) - 1
            assert not code or relative(path) in ("__init__.py", "losses/__init__.py")
