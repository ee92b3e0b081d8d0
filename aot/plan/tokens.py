"""Token ids and sampling that a checkpoint's files name: generation_config.json, config.json, the tokenizer's files."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aot.errors import InputError
from aot.sampling import SamplingParams

# What transformers samples with where do_sample is true and generation_config.json does not say.
_SAMPLING = {"temperature": 1.0, "top_k": 50, "top_p": 1.0, "min_p": 0.0, "repetition_penalty": 1.0}
# Options of transformers that draw or search in ways of their own, with the values that switch them off.
_OFF: dict[str, tuple[Any, ...]] = {
    "num_beams": (1,),
    "typical_p": (1.0,),
    "epsilon_cutoff": (0.0,),
    "eta_cutoff": (0.0,),
    "no_repeat_ngram_size": (0,),
    "encoder_repetition_penalty": (1.0,),
    "penalty_alpha": (0.0,),
    "top_h": (),
    "watermarking_config": (),
}


@dataclass(frozen=True)
class Sources:
    """Where to look: the files' directory, the configuration, the tokenizer's directory, the size of the vocabulary."""

    directory: Path
    config: Mapping[str, Any]
    tokenizer: Path | None
    vocab_size: int

    def ids(self, name: str) -> tuple[int, ...]:
        """The ids that the first source with one names as `eos`, `pad` or `bos`; empty where none does."""
        return next((ids for ids in self._candidates(name) if ids), ())

    def _candidates(self, name: str) -> Iterator[tuple[int, ...]]:
        key = f"{name}_token_id"
        yield self._valid(self.generation_config().get(key), f"{self.directory / 'generation_config.json'}: {key}")
        yield self._valid(self.config.get(key), f"config: {key}")
        if self.tokenizer is not None:
            yield self._valid(self._of_tokenizer(self.tokenizer, f"{name}_token"), f"{self.tokenizer}: {key}")

    def _valid(self, value: Any, place: str) -> tuple[int, ...]:
        ids = [] if value is None else value if isinstance(value, list) else [value]
        if wrong := [item for item in ids if type(item) is not int]:
            raise InputError(f"{place}: must be a token id or a list of them, got {wrong[0]!r}; correct the file")
        # Checkpoints write -1, or an id beyond the vocabulary, for a token that the model does not have.
        return tuple(dict.fromkeys(item for item in ids if 0 <= item < self.vocab_size))

    def generation_config(self) -> dict[str, Any]:
        """The fields of generation_config.json; none where there is no such file."""
        return read_json(self.directory / "generation_config.json")

    def sampling(self) -> SamplingParams:
        """What generation_config.json says, read as transformers does: greedy unless do_sample is true."""
        file = self.directory / "generation_config.json"
        config = self.generation_config()
        if not config:
            raise InputError(f"there is no {file}; write the options into the manifest")
        given = {name: config[name] for name in _SAMPLING if config.get(name) is not None}
        if wrong := [name for name, off in _OFF.items() if config.get(name) not in (None, *off)]:
            raise InputError(f"{file}: {wrong[0]}: {config[wrong[0]]!r} is not supported; write the options here")
        if config.get("do_sample") is not True:
            return SamplingParams(repetition_penalty=given.get("repetition_penalty", 1.0))
        return SamplingParams(**{**_SAMPLING, **given})

    @staticmethod
    def _of_tokenizer(directory: Path, name: str) -> int | None:
        token = read_json(directory / "tokenizer_config.json").get(name)
        content = token.get("content") if isinstance(token, dict) else token
        if not isinstance(content, str):
            return None
        added = read_json(directory / "tokenizer.json").get("added_tokens")
        items = [item for item in added if isinstance(item, dict)] if isinstance(added, list) else []
        return next((item.get("id") for item in items if item.get("content") == content), None)


def read_json(file: Path) -> dict[str, Any]:
    """The fields of a file; none where there is no file."""
    try:
        data = json.loads(file.read_bytes())
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise InputError(f"{file}: {error.strerror}; make it readable") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file}: is not JSON: {error}; fetch it again") from None
    if not isinstance(data, dict):
        raise InputError(f"{file}: must hold a JSON object, got {type(data).__name__}; fetch it again")
    return data
