"""The Python that README and docs show runs as it stands."""

from __future__ import annotations

import itertools
import re
import sys
from pathlib import Path
from typing import Any

import onnx
import pytest

import advconv_onnx
from advconv_onnx.rewriter.forms import all_forms
from advconv_onnx.rewriter.fusions import all_rules
from advconv_onnx.rewriter.rule import Rule

ROOT = Path(__file__).parent.parent


def blocks(document: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / document).read_text(), re.DOTALL)


@pytest.mark.parametrize(
    ("document", "about"), [("README.md", "save(b.model()"), ("docs/layers.md", "costs(")]
)
def test_building_runs(
    document: str, about: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    [code] = [block for block in blocks(document) if about in block]
    exec(code, {"advconv_onnx": advconv_onnx})
    for path in tmp_path.glob("*.onnx"):
        onnx.checker.check_model(path, full_check=True)


def first_sentence(rule: Rule[Any]) -> str:
    about = (sys.modules[type(rule).__module__].__doc__ or "").partition("\n\n")[0]
    return " ".join(about.split())


def test_every_fusion_is_listed_with_the_first_sentence_of_its_file() -> None:
    listed = (ROOT / "docs/fusions.md").read_text()
    for rule in all_rules():
        assert f"| `{rule.name}` | {first_sentence(rule)} |" in listed


def test_every_form_is_listed_with_its_variants_and_the_first_sentence_of_its_file() -> None:
    listed = (ROOT / "docs/forms.md").read_text()
    for module, forms in itertools.groupby(all_forms(), lambda form: type(form).__module__):
        variants = list(forms)
        names = ", ".join(f"`{form.name}`" for form in variants)
        name = module.rpartition(".")[2]
        assert f"| `{name}` | {first_sentence(variants[0])} | {names} |" in listed
