"""The wheel and the sdist hold what they should, and the wheel works. For .ci/package."""

import importlib.metadata
import importlib.util
import re
import sys
import tarfile
import zipfile
from pathlib import Path

import torch

import funcattr as fa

dist = Path(sys.argv[1])
(wheel,), (sdist,) = dist.glob("*.whl"), dist.glob("*.tar.gz")
names = zipfile.ZipFile(wheel).namelist()
tops = {name.split("/")[0] for name in names}
assert tops == {"funcattr", f"funcattr-{fa.__version__}.dist-info"}, tops
assert all(name.endswith((".py", "py.typed")) for name in names if name.startswith("funcattr/"))
assert any(name.endswith("licenses/LICENSE") for name in names)
with tarfile.open(sdist) as archive:
    inside = {name.partition("/")[2] for name in archive.getnames()}
assert {"README.md", "LICENSE", "CITATION.cff", "funcattr/py.typed"} <= inside, inside
assert not any(name.startswith(("tests", "docs", "benchmarks")) for name in inside), inside

place = Path(fa.__file__).parent
assert place.is_relative_to(sys.prefix), f"{place} is not what was installed"
assert (place / "py.typed").exists()
assert all(importlib.util.find_spec(name) is None for name in ("tests", "docs", "benchmarks"))
written = {name for name in names if name.startswith("funcattr/")}
assert {p.relative_to(place.parent).as_posix() for p in place.rglob("*.py")} <= written

about = importlib.metadata.metadata("funcattr")
assert (about["Version"], about["License-Expression"]) == (fa.__version__, "MIT"), about
assert "relevance" in about["Summary"], about["Summary"]
core = {re.match(r"[\w-]+", r)[0] for r in about.get_all("Requires-Dist") if "extra ==" not in r}
assert core == {"torch", "numpy"}, core
assert {"viz", "progress", "demo", "docs"} <= set(about.get_all("Provides-Extra"))
root = Path(__file__).parents[1]
assert f"\nversion: {fa.__version__}\n" in (root / "CITATION.cff").read_text("utf-8")
assert f"\n## [{fa.__version__}]" in (root / "CHANGELOG.md").read_text("utf-8")
try:  # without matplotlib pictures say what they need
    fa.viz.overlay(torch.ones(2, 2))
except fa.ArgumentError as error:
    assert "funcattr[viz]" in str(error), error
else:
    raise AssertionError("matplotlib is installed, and should not have been")

torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
x = torch.randn(4, 3)
map_ = fa.guided_backprop(model)(x, target=1)
first, _, last = model
g = torch.relu(last.weight[1].expand(4, 8)) * (first(x) > 0)
torch.testing.assert_close(map_, (g @ first.weight).detach())
print(f"{wheel.name} and {sdist.name}: installed, and a map is right")
