"""Hints for missing packages name an extra that exists, in a form that works in a checkout."""

import re
import tomllib
from pathlib import Path

import pytest

from omfa_jax.core.errors import OmfaError, format_install_hint, require_modules

ROOT = Path(__file__).parents[1]
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
SOURCES = [path for name in ("omfa_jax", "docs") for path in (ROOT / name).rglob("*.[pm][yd]")]
SOURCES += [*ROOT.glob("*.py"), ROOT / "README.md"]


def test_a_missing_package_names_the_command():
    with pytest.raises(OmfaError) as told:
        require_modules("SSIM", "eval", "no_such_module")
    assert str(told.value) == (
        "SSIM needs no_such_module, which is not installed: pip install -e '.[eval]' in the"
        " checkout of omfa_jax"
    )


def test_every_hint_names_an_extra_that_exists():
    found = set()
    for path in SOURCES:
        text = path.read_text()
        found |= set(re.findall(r"format_install_hint\([\"'](.+?)[\"']\)", text))
        found |= set(re.findall(r"require_modules\(\s*f?\"[^\"]+\",\s*\"(\w+)\"", text))
    assert {"eval", "body", "torch", "wandb", "scaling", "heif", "beam", "tpu"} <= found
    assert found <= EXTRAS.keys()
    assert format_install_hint("eval") == "pip install -e '.[eval]' in the checkout of omfa_jax"


def test_nothing_names_the_package_on_an_index():
    told = [
        path.name for path in SOURCES if re.search(r"install [^\n]*omfa_jax\[", path.read_text())
    ]
    assert not told
