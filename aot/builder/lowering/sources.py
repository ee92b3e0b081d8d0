"""Makes the model that a plan names: a decoder family over a checkpoint, or a factory of the user's own."""

import contextlib
import importlib
import sys
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from aot.chain import Array, Call, Chain
from aot.errors import AotError, InputError
from aot.partition import Dimensions
from aot.precompile import Combo

if TYPE_CHECKING:
    from aot.models.protocol import BuildableModel
    from aot.plan import Plan


def model(plan: "Plan") -> "BuildableModel":
    """The plan's model; its weights are read when they are asked for.

    Raises InputError for a factory that cannot be imported, fails, or gives something else.
    """
    return _from_factory(plan) if plan.model.factory is not None else _from_checkpoint(plan)


def dimensions(model: "BuildableModel", combo: Combo) -> Dimensions:
    """What a model calls the axes of its arrays; nothing where it has no `dimensions`."""
    from aot.models.protocol import Named

    return model.dimensions(combo) if isinstance(model, Named) else Dimensions()


def _from_checkpoint(plan: "Plan") -> "BuildableModel":
    from aot.models.checkpoints import checkpoint, orbax
    from aot.models.families import family
    from aot.models.language import LanguageModel
    from aot.programs.calls import GenerationOptions

    source, generation = plan.model, plan.generation
    assert source.config is not None, source
    assert source.checkpoint is not None, source
    assert source.dtype is not None, source
    assert generation is not None, plan
    config, directory = family.read_model_config(source.config, source.preprocessor), source.checkpoint
    dtype = source.dtype if source.quantization is None else "float32"  # what is quantized is rounded once
    restrictions, room = generation.restrictions, max(1, len(generation.eos_token_id))
    options = GenerationOptions(
        generation.streaming_chunks, generation.logits, room, restrictions.suppress, restrictions.begin_suppress
    )

    def tensors():  # type: ignore[no-untyped-def]
        if checkpoint.checkpoint_kind(directory) == "orbax":
            return orbax.orbax_tensors(directory, source.subtree, config.parameters(), dtype)
        return checkpoint.checkpoint_tensors(directory, config, dtype)

    return LanguageModel(config, source.dtype, options, plan.combos, tensors, source.quantization)


def _from_factory(plan: "Plan") -> "BuildableModel":
    from aot.models.protocol import BuildableModel

    source = plan.model
    assert source.factory is not None, source
    place = f"model.factory {source.factory!r}"
    module, _, attribute = source.factory.partition(":")
    sys.path.insert(0, str(source.directory))
    with _blaming(place):
        made = getattr(importlib.import_module(module), attribute)(**source.arguments)
    if not isinstance(made, BuildableModel):
        raise InputError(
            f"{place}: gave {type(made).__name__}, which lacks abstract_weights, weights or chains; see "
            "aot.models.protocol"
        )
    return _Checked(made, place)


class _Checked:
    """A user's model: what it raises, or gives of a wrong type, is an InputError that names the factory."""

    def __init__(self, model: "BuildableModel", place: str) -> None:
        self._model, self._place = model, place

    def abstract_weights(self) -> Mapping[str, Array]:
        place = f"{self._place}: abstract_weights"
        with _blaming(place):
            made = dict(self._model.abstract_weights())
        for path, array in made.items():
            _expect(array, Array, f"{place}: {path!r}")
        return made

    def weights(self) -> Iterator[tuple[str, "np.ndarray[Any, Any]"]]:
        missing = dict.fromkeys(self.abstract_weights())
        with _blaming(f"{self._place}: weights"):
            for path, array in self._model.weights():
                missing.pop(path, None)
                yield path, np.asarray(array)
        for path in missing:
            raise InputError(f"{self._place}: weights: {path!r} is in abstract_weights and was not given")

    def chains(self, combo: Combo, platform: str, mesh: Mapping[str, int]) -> Mapping[str, Chain]:
        place = f"{self._place}: chains"
        with _blaming(place):
            made = dict(self._model.chains(combo, platform, mesh))
        for phase, chain in made.items():
            _expect(phase, str, f"{place}: {phase!r}")
            _expect(chain, Chain, f"{place}: {phase!r}")
            for call in chain.calls:
                _expect(call, Call, f"{place}: {phase!r}")
                with _blaming(f"{place}: {phase!r}: the function of program {call.program.name}"):
                    hash(call.program)  # equal programs are found by it
        if not (made and all(chain.calls for chain in made.values())):
            raise InputError(f"{place}: must give a chain of at least one call for each phase, got {made!r:.200}")
        return made

    def dimensions(self, combo: Combo) -> Dimensions:
        place = f"{self._place}: dimensions"
        with _blaming(place):
            made = dimensions(self._model, combo)
        _expect(made, Dimensions, place)
        return made


def _expect(value: object, kind: type, place: str) -> None:
    if not isinstance(value, kind):
        raise InputError(f"{place}: must be {kind.__module__}.{kind.__name__}, got {type(value).__name__}")


@contextlib.contextmanager
def _blaming(place: str) -> Iterator[None]:
    """Turns what a user's code raises into an InputError at a place."""
    try:
        yield
    except AotError:
        raise
    except (Exception, SystemExit) as error:
        cause = " ".join(str(error).split())[:500]
        raise InputError(f"{place}: {type(error).__name__}" + (f": {cause}" if cause else "")) from error
