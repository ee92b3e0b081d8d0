"""From a plan to the model that it names: a decoder family over a checkpoint, or a factory of the user's own."""

import importlib
import sys
from typing import TYPE_CHECKING

from aot.errors import AotError, InputError

if TYPE_CHECKING:
    from aot.models.protocol import Model
    from aot.plan import Plan


def model(plan: "Plan") -> "Model":
    """The plan's model; its weights are read when they are asked for.

    Raises InputError for a factory that cannot be imported, fails, or gives something else.
    """
    return _from_factory(plan) if plan.model.factory is not None else _from_checkpoint(plan)


def _from_checkpoint(plan: "Plan") -> "Model":
    from aot.models import checkpoint, orbax
    from aot.models.config import DecoderConfig
    from aot.models.language import LanguageModel
    from aot.programs.generation import Options

    source, generation = plan.model, plan.generation
    assert source.config is not None, source
    assert source.checkpoint is not None, source
    assert source.dtype is not None, source
    assert generation is not None, plan
    config = DecoderConfig.from_huggingface(source.config)
    directory, values, dtype = source.checkpoint, source.config, source.dtype
    options = Options(generation.streaming_chunks, generation.logits, max(1, len(generation.eos_token_id)))

    def tensors():  # type: ignore[no-untyped-def]
        if checkpoint.kind(directory) == "orbax":
            from aot.models import names

            return orbax.tensors(directory, source.subtree, names.parameters(config), dtype)
        return checkpoint.tensors(directory, values, dtype)

    return LanguageModel(config, dtype, options, plan.combos, tensors)


def _from_factory(plan: "Plan") -> "Model":
    from aot.models.protocol import Model

    source = plan.model
    assert source.factory is not None, source
    module, _, attribute = source.factory.partition(":")
    sys.path.insert(0, str(source.directory))
    try:
        made = getattr(importlib.import_module(module), attribute)(**source.arguments)
    except AotError:
        raise
    except Exception as error:  # a user's module may raise anything
        cause = " ".join(str(error).split())
        raise InputError(f"model.factory {source.factory!r}: {type(error).__name__}: {cause}") from error
    if not isinstance(made, Model):
        raise InputError(
            f"model.factory {source.factory!r}: gave {type(made).__name__}, which lacks abstract_weights, weights or "
            "chains; see aot.models.protocol"
        )
    return made
