"""The wheel and the sdist hold what they should, and the wheel works. For .ci/package."""

import importlib.util
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
assert {"README.md", "LICENSE", "pyproject.toml", "funcattr/py.typed"} <= inside, inside

place = Path(fa.__file__).parent
assert place.is_relative_to(sys.prefix), f"{place} is not what was installed"
assert (place / "py.typed").exists()
assert all(importlib.util.find_spec(name) is None for name in ("tests", "docs", "benchmarks"))
written = {name for name in names if name.startswith("funcattr/")}
assert {p.relative_to(place.parent).as_posix() for p in place.rglob("*.py")} <= written

torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
x = torch.randn(4, 3)
map_ = fa.guided_backprop(model)(x, target=1)
first, _, last = model
g = torch.relu(last.weight[1].expand(4, 8)) * (first(x) > 0)
torch.testing.assert_close(map_, (g @ first.weight).detach())
print(f"{wheel.name} and {sdist.name}: installed, and a map is right")
