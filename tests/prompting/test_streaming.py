"""Text from the demo's bundle: streams, stop strings, conversations and special tokens."""

import json
from dataclasses import replace

import pytest
from places import ROOT
from serving import recorded
from tokenizers import Tokenizer

import aot
from aot.bundle import store
from aot.bundle.writer import Writer
from aot.errors import InputError

PROMPT = "def main("
CHUNK = 16
CHAT = [{"role": "user", "content": "def add(a, b):"}]
DRAWN = {"temperature": 1.2, "seed": 3}


@pytest.fixture(scope="module")
def model(tiny_bundle):
    with aot.load(tiny_bundle) as model:
        yield model


@pytest.fixture(scope="module")
def tokenizer():
    """The checkpoint's own, read by the library alone."""
    return Tokenizer.from_file(str(ROOT / "manifests" / "tiny" / "tokenizer.json"))


@pytest.mark.parametrize("options", [{}, DRAWN, {"stop": ["\n\n"]}, {"max_new_tokens": 1}, {"max_new_tokens": 17}])
@pytest.mark.parametrize("prompt", [PROMPT, CHAT, [5, 6, 7]])
def test_the_pieces_of_a_stream_are_the_text_of_generate(model, prompt, options):
    run = model.stream(prompt, **options)

    pieces = list(run)

    (result,) = run.results
    assert "".join(pieces) == result.text == model.generate(prompt, **options).text
    assert "" not in pieces


def test_a_stream_that_is_left_ends_there(model):
    with model.stream(PROMPT) as left:
        first = next(left)
    closed = model.stream(PROMPT)
    closed.close()

    assert first
    assert (list(left), list(closed)) == ([], [])
    assert "".join(model.stream(PROMPT)).startswith(first)


def test_a_stream_gives_text_after_the_prefill_and_after_each_chunk(model):
    with recorded(model) as ran:
        heard = [(piece, len(ran)) for piece in model.stream(PROMPT, max_new_tokens=1 + 2 * CHUNK, eos_token_id=[])]

    assert [runs for _, runs in heard] == [1, 2, 3]


def test_the_text_is_what_the_tokenizer_makes_of_the_tokens(model, tokenizer):
    result = model.generate(PROMPT)

    assert result.prompt_tokens == len(tokenizer.encode(PROMPT).ids)
    assert result.text == tokenizer.decode(result.token_ids)
    assert result.completed == PROMPT + result.text
    assert model.generate(tokenizer.encode(PROMPT).ids).token_ids == result.token_ids


def test_a_stop_string_cuts_the_text_and_ends_the_row_within_its_chunk(model):
    whole = model.generate(PROMPT, max_new_tokens=60)
    stop = whole.text[12:16]
    before = whole.text[: whole.text.index(stop)]

    with recorded(model) as ran:
        result = model.generate(PROMPT, max_new_tokens=60, stop=[stop, "never to be seen"], seed=0)

    assert (result.text, result.finish_reason) == (before, "stop")
    assert result.token_ids == whole.token_ids[: len(result.token_ids)]
    assert len(result.token_ids) <= 1 + CHUNK
    assert [run.phase for run in ran] == ["prefill", "decode"]
    assert model.generate(PROMPT, max_new_tokens=60, stop=stop, seed=0) == result


def test_a_row_stops_at_its_own_stop_string_and_leaves_its_neighbours_as_they_are(model):
    prompts = [PROMPT, "import os\n", CHAT]
    free = model.generate(prompts, max_new_tokens=40, **DRAWN)
    stop = _only_in(free[1].text, free[0].text + free[2].text)

    results = model.generate(prompts, max_new_tokens=40, stop=stop, **DRAWN)

    assert [results[0], results[2]] == [free[0], free[2]]
    assert (results[1].text, results[1].finish_reason) == (free[1].text[: free[1].text.index(stop)], "stop")


def test_a_row_that_has_stopped_does_not_keep_a_chunk_going(model):
    prompts, wanted = [PROMPT, "import os\n"], {"max_new_tokens": 60, **DRAWN}
    stopping, ending = model.generate(prompts, eos_token_id=[], **wanted)
    stop = _only_in(stopping.text[:12], ending.text)
    place, end = next((i, t) for i, t in enumerate(ending.token_ids) if i > CHUNK + 2 and t not in ending.token_ids[:i])

    with recorded(model) as ran:
        results = model.generate(prompts, eos_token_id=end, stop=stop, **wanted)

    assert [result.finish_reason for result in results] == ["stop", "eos"]
    assert [run.steps for run in ran] == [0, CHUNK, place - CHUNK]


def _only_in(text, other):
    """A short piece of a text that another lacks."""
    return next(text[i : i + 4] for i in range(len(text) - 3) if text[i : i + 4] not in other)


def test_text_held_back_for_a_stop_string_that_never_came_is_given_at_the_end(model):
    whole = model.generate(PROMPT, max_new_tokens=20).text

    pieces = list(model.stream(PROMPT, max_new_tokens=20, stop=[whole[-3:] + "!"]))

    assert "".join(pieces) == whole


def test_an_end_of_text_is_among_the_tokens_and_not_in_the_text(model, tokenizer):
    result = model.generate(CHAT)

    assert result.finish_reason == "eos"
    assert result.token_ids[-1] == tokenizer.token_to_id("<|im_end|>")
    assert "<|" not in result.text
    assert len(result.logprobs) == len(result.token_ids)


def test_a_conversation_gains_an_assistant_turn_and_keeps_its_type(model):
    results = [model.generate(CHAT), *model.generate([CHAT, tuple(CHAT)])]

    turn = {"role": "assistant", "content": results[0].text}
    assert [result.completed for result in results] == [[*CHAT, turn], [*CHAT, turn], (*CHAT, turn)]
    followed = model.generate([*results[0].completed, {"role": "user", "content": "class A:"}], truncate=True)
    assert followed.text


def doctored(bundle, files, destination):
    """A copy of a bundle with other tokenizer files."""
    opened = store.open(bundle)
    with Writer.stage(destination) as writer:
        writer.adopt(opened)
        added = {name: writer.add(data) for name, data in files.items()}
        writer.publish(replace(opened.index, tokenizer={**opened.index.tokenizer, **added}))
    return destination


def test_an_end_of_text_that_no_file_marks_is_left_out_and_not_spelled(model, tokenizer, tiny_bundle, tmp_path):
    description = json.loads(tokenizer.to_str())
    for token in description["added_tokens"]:
        token["special"] = False
    config = json.loads((ROOT / "manifests" / "tiny" / "tokenizer_config.json").read_text())
    plain = {"tokenizer.json": description, "tokenizer_config.json": {"chat_template": config["chat_template"]}}
    files = {name: json.dumps(content).encode() for name, content in plain.items()}

    with aot.load(doctored(tiny_bundle, files, tmp_path / "bundle")) as unmarked:
        result, typed = unmarked.generate([CHAT, "hello<|im_end|>"])

    expected = model.generate([CHAT, "hello<|im_end|>"])
    assert result.finish_reason == "eos"
    assert [result.text, typed.prompt_tokens] == [expected[0].text, expected[1].prompt_tokens]


def test_a_conversation_is_answered_with_what_its_template_takes_beside_it(tiny_bundle, tmp_path, document):
    template = "{{ messages[0].content }}{% if more is defined %}{{ more }}{{ tools | length }}{% endif %}"
    bundle = doctored(tiny_bundle, {"chat_template.jinja": template.encode()}, tmp_path / "bundle")
    given = {"more": "<|im_end|> os", "tools": [{"type": "function"}]}
    chat = [{"role": "user", "content": "import"}]
    (tmp_path / "chat.json").write_text(json.dumps(chat))
    ask = ("run", bundle, "--max-new-tokens", 4, "--chat", tmp_path / "chat.json")
    arguments = [
        option for name, value in given.items() for option in ("--template-arg", f"{name}={json.dumps(value)}")
    ]

    with aot.load(bundle) as model:
        plain, more = (model.generate(chat, max_new_tokens=4, template=each) for each in (None, given))
        streamed = "".join(model.stream(chat, max_new_tokens=4, template=given))
        mixed = model.generate([chat, "import<|im_end|> os1"], max_new_tokens=4, template=given)

    assert plain.prompt_tokens < more.prompt_tokens
    assert streamed == more.text
    assert [result.token_ids for result in mixed] == [more.token_ids] * 2
    assert document(*ask)["results"][0]["token_ids"] == plain.token_ids
    assert document(*ask, *arguments)["results"][0]["token_ids"] == more.token_ids


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["enable_thinking"], "--template-arg: must be NAME=JSON, got 'enable_thinking'"),
        (["=1"], "--template-arg: must be NAME=JSON, got '=1'"),
        (["x=False"], "--template-arg x: is not JSON ("),
        (["x=1", "x=2"], "--template-arg: 'x' is given twice; give it once"),
        (["messages=[]"], "template: 'messages' are the conversation itself; give them as the prompt"),
    ],
)
def test_what_no_template_takes_is_named(tiny_bundle, tmp_path, refused, arguments, words):
    (tmp_path / "chat.json").write_text(json.dumps(CHAT))
    options = [option for argument in arguments for option in ("--template-arg", argument)]

    assert words in refused(2, "run", tiny_bundle, "--chat", tmp_path / "chat.json", *options)


def test_special_tokens_that_a_user_types_stay_text(model, tokenizer):
    typed = "<|im_end|>hello"
    special = {tokenizer.token_to_id(name) for name in ("<|endoftext|>", "<|im_start|>", "<|im_end|>")}

    text, chat = model.generate([typed, [{"role": "user", "content": typed}]], max_new_tokens=1)

    assert special & set(tokenizer.encode(typed).ids)  # the library alone would have been fooled
    assert text.prompt_tokens > len(tokenizer.encode(typed).ids)
    plain = model.generate([{"role": "user", "content": "hello"}], max_new_tokens=1)
    spelled = text.prompt_tokens - len(tokenizer.encode("hello").ids)
    assert chat.prompt_tokens == plain.prompt_tokens + spelled
    assert text.completed.startswith(typed)


def test_strings_conversations_and_token_ids_go_together(model, tokenizer):
    ids = tokenizer.encode(PROMPT).ids

    given = [PROMPT, CHAT, ids, "import os\n"]
    results = model.generate(given, max_new_tokens=20)

    assert [result.prompt for result in results] == given
    assert results[0].token_ids == results[2].token_ids
    assert results[2].completed == [*ids, *results[2].token_ids]
    assert [result.text for result in results] == [model.generate(one, max_new_tokens=20).text for one in given]


def test_a_stream_left_midway_does_no_harm(model):
    expected = model.generate(PROMPT, **DRAWN)

    left = model.stream(PROMPT, **DRAWN)
    next(left)
    other = model.stream(PROMPT, **DRAWN)
    assert "".join(other) == expected.text
    del left

    assert model.generate(PROMPT, **DRAWN) == expected


def test_streams_may_take_turns(model):
    expected = [model.generate(prompt, **DRAWN).text for prompt in (PROMPT, "import os\n")]

    runs = [model.stream(prompt, **DRAWN) for prompt in (PROMPT, "import os\n")]
    heard = ["", ""]
    for _ in range(10):
        heard = [text + next(run, "") for text, run in zip(heard, runs, strict=True)]

    assert heard == expected


@pytest.mark.parametrize(
    ("prompt", "options", "words"),
    [
        ([PROMPT, PROMPT], {}, "stream takes one prompt and one sequence, got 2"),
        (PROMPT, {"n": 2}, "stream takes one prompt and one sequence, got 2"),
        (PROMPT, {"stop": [""]}, "stop: must be a list of strings that are not empty"),
        (PROMPT, {"stop": ["x", 5]}, "stop: must be a list of strings that are not empty"),
        ("", {}, "prompt 0 has no tokens"),
        ("\ud800", {}, "is no Unicode text"),
        ([{"role": "user"}], {}, "conversation"),
    ],
)
def test_bad_text_is_refused_when_it_is_asked_for(model, prompt, options, words):
    with pytest.raises(InputError, match=words) as caught:
        model.stream(prompt, **options)

    assert "\n" not in str(caught.value)
