"""What generation_config.json says of how tokens are drawn and texts end, read as transformers does.

Each option is followed, has no say in what is drawn, or is refused by its name.
"""

from collections.abc import Callable, Collection, Mapping
from typing import Any

from aot.errors import InputError
from aot.sampling import Restrictions, SamplingParams

# What transformers samples with where do_sample is true and the file does not say.
_SAMPLING = {"temperature": 1.0, "top_k": 50, "top_p": 1.0, "min_p": 0.0, "repetition_penalty": 1.0}
_RESTRICTING = ("stop_strings", "suppress_tokens", "begin_suppress_tokens", "bad_words_ids")
# Options that are not followed, with the values that switch them off beside null.
_OFF: dict[str, tuple[Any, ...]] = {
    "num_beams": (1,),
    "num_beam_groups": (1,),
    "diversity_penalty": (0.0,),
    "typical_p": (1.0,),
    "epsilon_cutoff": (0.0,),
    "eta_cutoff": (0.0,),
    "top_h": (),
    "no_repeat_ngram_size": (0,),
    "encoder_no_repeat_ngram_size": (0,),
    "encoder_repetition_penalty": (1.0,),
    "penalty_alpha": (0.0,),
    "dola_layers": (),
    "guidance_scale": (1.0,),
    "sequence_bias": ({}, []),
    "min_length": (0,),
    "min_new_tokens": (0,),
    "max_time": (),
    "forced_bos_token_id": (),
    "forced_eos_token_id": (),
    "exponential_decay_length_penalty": (),
    "constraints": ([],),
    "force_words_ids": ([],),
    "remove_invalid_values": (False,),
    "token_healing": (False,),
    "watermarking_config": (),
}
# Lengths and numbers, which are a manifest's and a request's; special tokens, which are read whatever is sampled; what
# beams alone read, and what a softmax undoes; memory, speed, drafts that are confirmed; what is given back.
_WITHOUT_SAY = frozenset(
    [
        "max_length",
        "max_new_tokens",
        "num_return_sequences",
        "eos_token_id",
        "pad_token_id",
        "bos_token_id",
        "decoder_start_token_id",
        "early_stopping",
        "length_penalty",
        "renormalize_logits",
        "use_cache",
        "cache_implementation",
        "cache_config",
        "max_cache_len",
        "return_legacy_cache",
        "low_memory",
        "prefill_chunk_size",
        "compile_config",
        "disable_compile",
        "continuous_batching_config",
        "use_mtp",
        "speculation_type",
        "is_assistant",
        "num_assistant_tokens",
        "num_assistant_tokens_schedule",
        "assistant_confidence_threshold",
        "assistant_early_exit",
        "assistant_lookbehind",
        "target_lookbehind",
        "assistant_ensemble_weight",
        "prompt_lookup_num_tokens",
        "max_matching_ngram_size",
        "output_attentions",
        "output_hidden_states",
        "output_scores",
        "output_logits",
        "return_dict_in_generate",
        "transformers_version",
        "_from_model_config",
        "_commit_hash",
    ]
)
_KNOWN = {*_SAMPLING, "do_sample", *_RESTRICTING, *_OFF, *_WITHOUT_SAY}

Valid = Callable[[Any, str], tuple[int, ...]]
"""Gives the ids of the vocabulary among those that a file names. Raises InputError for what is no id."""


def params(config: Mapping[str, Any], place: str) -> SamplingParams:
    """How tokens are drawn: greedy unless do_sample is true. Raises InputError for an option that is not followed."""
    for name, value in config.items():
        if value is not None and name in _OFF and value not in _OFF[name]:
            raise InputError(f"{place}: {name}: {value!r:.80} is not supported; write the options here")
        if value is not None and name not in _KNOWN:
            raise InputError(f"{place}: {name}: {value!r:.80} is not known; write the options here")
    given = {name: config[name] for name in _SAMPLING if config.get(name) is not None}
    if config.get("do_sample") is not True:
        return SamplingParams(repetition_penalty=given.get("repetition_penalty", 1.0))
    return SamplingParams(**{**_SAMPLING, **given})


def restrictions(config: Mapping[str, Any], place: str, valid: Valid, eos: Collection[int]) -> Restrictions:
    """What is kept out of every text. Raises InputError for a list that is none, and for words of several tokens."""
    suppressed = {
        name: valid(config.get(f"{name}_tokens"), f"{place}: {name}_tokens") for name in ("suppress", "begin_suppress")
    }
    words = valid(_words(config, f"{place}: bad_words_ids"), f"{place}: bad_words_ids")
    never = {*suppressed["suppress"], *(id for id in words if id not in eos)}  # of those transformers lets EOS be
    return Restrictions(_stops(config, place), tuple(sorted(never)), tuple(sorted(suppressed["begin_suppress"])))


def _words(config: Mapping[str, Any], place: str) -> list[Any]:
    """The tokens that are words of their own."""
    words = config.get("bad_words_ids") or []
    if not isinstance(words, list) or not all(isinstance(word, list) and word for word in words):
        raise InputError(f"{place}: must be a list of lists of token ids, got {words!r:.80}; correct the file")
    if several := [word for word in words if len(word) > 1]:
        raise InputError(
            f"{place}: {several[0]!r:.80} has several tokens, which is not supported; write the options here"
        )
    return [word[0] for word in words]


def _stops(config: Mapping[str, Any], place: str) -> tuple[str, ...]:
    stops = config.get("stop_strings") or []
    listed = [stops] if isinstance(stops, str) else stops
    if not isinstance(listed, list) or not all(isinstance(stop, str) and stop for stop in listed):
        raise InputError(
            f"{place}: stop_strings: must be texts that are not empty, got {stops!r:.80}; correct the file"
        )
    return tuple(dict.fromkeys(listed))
