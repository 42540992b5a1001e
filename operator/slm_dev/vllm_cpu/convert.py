"""Turn a GGUF file into a folder that vLLM serves: ``python convert.py FILE.gguf FOLDER``.

Runs in vLLM's environment, which has transformers. vLLM does not serve GGUF on a CPU.
"""

import os
import sys
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import torch  # type: ignore[import-not-found, unused-ignore]
import transformers  # type: ignore[import-not-found, unused-ignore]


def convert(gguf: Path, folder: Path) -> None:
    """Write the weights as float32 safetensors, the tokenizer and its chat template."""
    model = transformers.AutoModelForCausalLM.from_pretrained(
        gguf.parent,
        gguf_file=gguf.name,
        quantization_config=transformers.GgufConfig(dequantize=True),
        dtype=torch.float32,
    )
    model.save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(
        folder
    )


if __name__ == "__main__":
    convert(Path(sys.argv[1]), Path(sys.argv[2]))
