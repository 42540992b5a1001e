"""The GPU benchmark's models, read by the library that vLLM reads tokenizers with."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from benchmarks.gpu.models import MODELS, write_model
from slm_dev.vllm_cpu.install import ensure_environment

TEXT = "Hello, 7 times!\n"
READ = """
import json, sys
from transformers import AutoTokenizer
found = {}
for path in sys.argv[2:]:
    tokenizer = AutoTokenizer.from_pretrained(path)
    tokens = tokenizer(sys.argv[1]).input_ids
    every = [*range(1000), tokenizer.vocab_size - 1]
    found[path] = {
        "tokens": len(tokens),
        "text": tokenizer.decode(tokens),
        "not_whole": [n for n in every if tokenizer.decode([n]) in ("", "\ufffd")],
    }
print(json.dumps(found))
"""


@pytest.mark.timeout(900)
def test_every_text_has_tokens_and_every_token_is_whole_characters(tmp_path: Path) -> None:
    environment = ensure_environment(print)
    paths = [str(write_model(name, tmp_path)) for name in MODELS]
    told = subprocess.run(
        [str(environment.python), "-c", READ, TEXT, *paths],
        env={**os.environ, **environment.environment},
        check=True,
        capture_output=True,
        text=True,
    )
    expected = {"tokens": len(TEXT), "text": TEXT, "not_whole": []}
    assert json.loads(told.stdout) == dict.fromkeys(paths, expected)
