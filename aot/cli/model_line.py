"""The model of a plan, as `aot plan` shows it: its family, and which of its files are there."""

from typing import Any

from aot import plan as plans
from aot.builder.stages import tokenizer
from aot.plan import Plan
from aot.runtime.prompting.text import TextTokenizer


def model_document(plan: Plan) -> dict[str, Any]:
    """The model for scripts: what was found of it."""
    model = plan.model
    if model.factory is not None:
        return {"factory": model.factory, "weights": True}
    return {
        "family": plans.family(plan),
        "dtype": model.dtype,
        "quantization": model.quantization,
        "tokenizer": bool(tokenizer.tokenizer_blobs(model.tokenizer)),
        "chat_template": _has_template(plan),
        "eos_token_id": list(plan.generation.eos_token_id) if plan.generation else [],
        "weights": plans.has_weights(plan),
    }


def model_line(plan: Plan) -> str:
    """The model for people."""
    found = model_document(plan)
    if "factory" in found:
        return f"model of {found['factory']}, which makes its weights"
    kind = " ".join(filter(None, (found["family"], found["dtype"], found["quantization"])))
    template = "a chat template" if found["chat_template"] else "no chat template"
    text = f"tokenizer, {template}" if found["tokenizer"] else "no tokenizer"
    eos = ", ".join(map(str, found["eos_token_id"]))
    weights = "weights are there" if found["weights"] else "no weights yet, which `aot build` needs"
    return f"model {kind}; {text}; {f'EOS {eos}' if eos else 'no EOS: only length and stop strings end'}; {weights}"


def _has_template(plan: Plan) -> bool:
    given = tokenizer.tokenizer_blobs(plan.model.tokenizer)
    return bool(given) and TextTokenizer.from_files(given, str(plan.model.tokenizer)).has_template
