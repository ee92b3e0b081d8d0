"""The record of a case, made anew."""

import copy
from collections.abc import Iterable
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import checkpoints
import models
import numpy as np
import torch
import transformers
from checkpoints import RecordError
from oracles import names, values
from oracles.records import Case
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
TIE = 1e-3
"""Between the two likeliest tokens of a random model: nearer ones another processor may put in another order."""


def made(case: Case) -> Case:
    """The case with its record."""
    kind = next(kind for kind in _KINDS if kind in case.given)
    found = _KINDS[kind](case)
    versions = {name: metadata.version(name).partition("+")[0] for name in ("torch", "transformers")}
    return replace(found, made={"by": versions, **found.made})


def _random_model(case: Case) -> Case:
    case, model = checkpoints.recorded(case)
    if hasattr(model.model, "rotary_emb"):
        case = replace(case, made=case.made | decoder(model))
    case = _continued(case, model, TIE)
    images = (values.pixels(values.picture(*each)) for each in case.given.get("images", []))
    seen = {f"embeddings/{i}": models.embeddings(model, pixels) for i, pixels in enumerate(images)}
    case = replace(case, arrays=case.arrays | seen)
    return replace(case, made=case.made | {"narrow": _narrow(case, model)}) if "narrow" in case.given else case


def decoder(model: Any) -> dict[str, Any]:
    """Rotary frequencies of a model of text, and the window of each layer."""
    if model.config.model_type == "mistral":  # one window for all layers, read where the mask is made
        windows = [model.config.sliding_window for _ in model.model.layers]
    else:
        windows = [getattr(layer.self_attn, "sliding_window", None) for layer in model.model.layers]
    return {"frequencies": model.model.rotary_emb.inv_freq.tolist(), "windows": windows}


def _continued(case: Case, model: Any, tie: float) -> Case:
    """Tokens by argmax after each row, with what is asked of their logits."""
    made: dict[str, dict[str, list[Any]]] = {}
    arrays = dict(case.arrays)
    for group, asked in case.given.get("rows", {}).items():
        for i, row in enumerate(case.rows(group)):
            ids, images, begun = list(row.ids), row.pixels, len(row.ids)
            for _ in range(asked["steps"]):
                ids.append(int(models.logits(model, ids, images)[-1].argmax()))
            shown = models.logits(model, ids[:-1], images)
            if (margin := _margin(shown[begun - 1 :])) < tie:
                raise RecordError(f"{group}, row {i}: two tokens are within {margin:.1e} of each other; change 'seed'")
            made.setdefault("tokens", {}).setdefault(group, []).append(ids[begun:])
            if asked.get("logprobs"):
                chosen = torch.tensor(shown[begun - 1 :]).log_softmax(-1)[range(asked["steps"]), ids[begun:]]
                made.setdefault("logprobs", {}).setdefault(group, []).append(chosen.tolist())
            if "logits" in asked:
                arrays[f"logits/{group}/{i}"] = shown[asked["logits"] :].copy()
    return replace(case, made=case.made | made, arrays=arrays)


def _margin(logits: np.ndarray[Any, Any]) -> float:
    """By how much the likeliest token leads, where it leads least."""
    best = np.sort(logits, -1)
    return float((best[:, -1] - best[:, -2]).min())


def _narrow(case: Case, model: Any) -> dict[str, float]:
    """How far logits of the same model in narrow dtypes are from those in float32, at most."""
    asked = case.given["narrow"]
    found = {}
    for dtype in asked["dtypes"]:
        narrow = copy.deepcopy(model).to(getattr(torch, dtype))
        rows = case.rows(asked["rows"])
        wanted = (models.logits(model, row.ids, row.pixels) for row in rows)
        given = (models.logits(narrow, row.ids, row.pixels) for row in rows)
        found[dtype] = max(float(np.abs(a - b).max()) for a, b in zip(wanted, given, strict=True))
    return found


def _trained_model(case: Case) -> Case:
    """Of a checkpoint in the repository."""
    home = ROOT / case.given["checkpoint"]
    model = getattr(transformers, case.given["model"]).from_pretrained(home).eval()
    if "generated" in case.given:
        return replace(case, made={"tokens": {"generated": _generated(case.given["generated"], model, home)}})
    return _continued(case, model, 0)


def _generated(asked: dict[str, Any], model: Any, home: Path) -> list[list[int]]:
    """What transformers generates, greedily, with the token that ends it."""
    found, options = [], asked.get("options", {})
    for i, ids in enumerate(asked["ids"]):
        tokens, pictures = torch.tensor([ids]), asked["pictures"][i] if "pictures" in asked else []
        inputs = {"input_ids": tokens} | (_seen(home, pictures, tokens, model) if pictures else {})
        with torch.no_grad():
            made = model.generate(**inputs, max_new_tokens=asked["steps"], do_sample=False, **options)
        found.append(made[0, len(ids) :].tolist())
    return found


def _seen(home: Path, pictures: Iterable[str], tokens: torch.Tensor, model: Any) -> dict[str, Any]:
    """Pictures beside a checkpoint, through the image processor that is there."""
    processor = transformers.AutoImageProcessor.from_pretrained(home, backend="pil")
    opened = [Image.open(home / picture) for picture in pictures]
    kinds = (tokens == model.config.image_token_id).int()
    return {**processor(opened, return_tensors="pt"), "mm_token_type_ids": kinds}


def _configurations(case: Case) -> Case:
    """Of each variant names and shapes of its tensors, frequencies and windows."""
    found = []
    for name, fields in case.given["variants"]:
        model = checkpoints.built(name, case.given["sizes"] | fields)
        found.append({"tensors": _state(model), **decoder(model)})
    return replace(case, made={"variants": found})


def _published(case: Case) -> Case:
    """Names and shapes of a model of full size, without its values."""
    with torch.device("meta"):
        config = transformers.AutoConfig.from_pretrained(ROOT / case.given["published"])
        model = transformers.AutoModelForImageTextToText.from_config(config)
    return replace(case, made={"tensors": _state(model)})


def _state(model: Any) -> names.Shapes:
    return names.folded({name: value.shape for name, value in model.state_dict().items()})


def _conversions(case: Case) -> Case:
    """The bits of floats in other dtypes."""
    kinds = case.given["conversions"]
    arrays = {}
    for kind, layout in kinds.items():
        bits = torch.tensor(values.patterns(**layout)).view(getattr(torch, kind))
        for other, wanted in kinds.items():
            unsigned = getattr(torch, f"uint{wanted['width']}")
            found = bits.to(getattr(torch, other))
            found[found.isnan()] = torch.nan  # whose bits depend on the processor
            arrays[f"{kind}/{other}"] = found.view(unsigned).numpy()
    return replace(case, arrays=arrays)


_KINDS = {
    "fields": _random_model,
    "checkpoint": _trained_model,
    "variants": _configurations,
    "published": _published,
    "conversions": _conversions,
}
