"""What generate, stream and call refuse, and what they hand back, on a bundle without a tokenizer."""

import json

import numpy as np
import pytest
from serving import padded, prompts

import aot
from aot import sampling
from aot.errors import AotError, InputError, NoEntryError
from aot.runtime import padding
from aot.runtime.options import RequestOptions

NAN, LISTS = float("nan"), [[1], [2, 3]]


@pytest.fixture(scope="module")
def model(family):
    with aot.load(family("qwen2").bundle) as model:
        yield model


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ([], "the batch is empty"),
        ((), "the batch is empty"),
        ([[]], "prompt 0 must be a text, token ids or a conversation that is not empty, got \\[\\]"),
        ([[5], []], "prompt 1 must be"),
        ([5, 320], "prompt 0 has the token 320, the vocabulary ends at 319"),
        ([[5], [-1]], "prompt 1 has the token -1"),
        ([5, 2**70], "prompt 0 has the token"),
        ([5, True], "prompt 0 must be"),
        ([5, 1.5], "prompt 0 must be"),
        (5, "must be a text, token ids, a conversation or a list of such, got 5"),
        (None, "must be a text, token ids, a conversation or a list of such, got None"),
        ({"role": "user"}, "must be a text"),
        (np.zeros((1, 2), np.int32), "must be a text"),
        (np.array([1.0]), "must be a text"),
        ("text", "prompt 0 is text, and this bundle has no tokenizer"),
        ([[5], "text"], "prompt 1 is text"),
        ([{"role": "user", "content": "text"}], "prompt 0 is text"),
    ],
)
def test_a_bad_prompt_is_named(model, prompt, words):
    with pytest.raises(InputError, match=words) as caught:
        model.generate(prompt)

    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "values", "words"),
    [
        ("max_new_tokens", (0, -1, 1.0, "5", True, 2**31), "max_new_tokens must be an integer of at least 1"),
        ("n", (0, 1.5, [2], True), "n must be an integer of at least 1"),
        ("n", (10**9, 65_537), "sequences are above the limit of 65536 for a call; ask for fewer"),
        ("seed", (-1, 2**64, 1.5, "7", True, [1.5], LISTS, {}), "seed must be an integer from 0 to 2\\*\\*64 - 1"),
        ("seed", ([1, 2], []), "seeds for 1 prompts; give one for all, or one for each"),
        ("eos_token_id", (-2, 2**31, "5", [1.0], LISTS, True), "eos_token_id must be a token id or a list"),
        ("eos_token_id", ([1, 2],), "2 eos_token_id, this bundle has room for 1"),
        ("stop", (5, {"a"}), "stop must be a text or a list of texts"),
        ("stop", ("text", ["text"]), "stop strings need a tokenizer"),
        ("truncate", ("yes", 1), "truncate must be True or False"),
        ("props", ({1}, 5, {"a": {1}}, {1: 2}, {"a": NAN}), "props must be a mapping of names to JSON values"),
        ("template", (5, [1], "x"), "template must be a mapping of names to JSON values"),
        ("template", ({"tools": []},), "template is for conversations, and no prompt is one"),
        ("temperature", (-1, NAN, float("inf"), "hot", True, 1e300, np.bool_(1)), "sampling.temperature: "),
        *((name, (10**400, -(10**400), 10**5000), f"sampling.{name}: ") for name in sampling.SAMPLING_FIELDS),
        *((name, (10**5000,), f"request: {name} ") for name in ("max_new_tokens", "n", "seed", "eos_token_id")),
        ("top_k", (-2, 1.5, 2**31), "sampling.top_k: "),
        ("top_p", (-0.1, 1.1), "sampling.top_p: must be between 0 and 1"),
        ("min_p", (-0.1, 1.1), "sampling.min_p: must be between 0 and 1"),
        ("repetition_penalty", (0, -1, 1e-60, 1e-30, 1e60, 3e38), "sampling.repetition_penalty: "),
        ("presence_penalty", (NAN, 1e60, -3e38, "a"), "sampling.presence_penalty: must be .* got"),
        ("frequency_penalty", (NAN, -3e38, 1.1e6), "sampling.frequency_penalty: must be .* got"),
        ("temprature", (1.0,), "unknown option 'temprature'"),
    ],
)
def test_a_bad_option_is_named(model, name, values, words):
    for value in values:
        with pytest.raises(InputError, match=words) as caught:
            model.generate([5, 6], **{name: value})

        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [np.int64(3), np.uint8(3)])
def test_numpys_integers_are_integers(model, value):
    result = model.generate([5, 6], max_new_tokens=value, seed=value, eos_token_id=[value], temperature=1.0)

    plain = model.generate([5, 6], max_new_tokens=3, seed=3, eos_token_id=3, temperature=1.0)
    assert result == plain
    assert json.dumps(result.to_dict()) == json.dumps(plain.to_dict())


def test_what_clients_send_for_all_tokens_for_one_and_for_no_stop_strings_is_taken(model):
    plain = model.generate([5, 6], max_new_tokens=8, seed=3, temperature=1.0)
    best = model.generate([5, 6], max_new_tokens=8)

    assert model.generate([5, 6], max_new_tokens=8, seed=3, temperature=1.0, top_k=-1, stop=None) == plain
    assert plain.token_ids != best.token_ids
    assert model.generate([5, 6], max_new_tokens=8, temperature=9.0, top_p=0).token_ids == best.token_ids


def test_a_drawn_seed_survives_readers_that_take_numbers_for_doubles():
    asked = []

    def draw(bits):
        asked.append(bits)
        return (1 << bits) - 1

    (seed,) = RequestOptions().seeds(1, draw)

    assert asked == [53]
    assert int(float(seed)) == seed


@pytest.mark.parametrize("kind", [np.int8, np.uint8, np.int16])
def test_numpys_small_integers_do_not_overflow(model, kind):
    (prompt,) = prompts(16)

    with pytest.raises(NoEntryError, match=r"136 tokens \(16 of the prompt, 120 to generate\) exceed the largest"):
        model.generate(prompt, max_new_tokens=kind(120))
    assert model.generate(prompt, max_new_tokens=kind(3), n=kind(2), seed=1)[1].token_ids


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_numpys_floats_are_numbers(model, kind):
    drawn = {"max_new_tokens": 6, "seed": 1}

    result = model.generate([5, 6], temperature=kind(0.5), top_p=kind(0.75), top_k=np.int8(40), **drawn)

    assert result == model.generate([5, 6], temperature=0.5, top_p=0.75, top_k=40, **drawn)


def test_the_greatest_penalties_make_no_number_that_is_none(model):
    most = {"presence_penalty": -1e6, "frequency_penalty": -1e6, "repetition_penalty": 1e-6}

    result = model.generate([5, 6], temperature=1.0, seed=1, eos_token_id=[], **most)

    assert len(set(result.token_ids)) < 20  # drawn again and again
    assert np.isfinite(result.logprobs).all()


def test_results_are_there_at_the_end_and_not_before(model):
    run = model.start([5, 6], RequestOptions(max_new_tokens=9, eos_token_id=[]))

    for _ in range(3):  # a prefill and two chunks, of which the second ends the row
        with pytest.raises(InputError, match="has not come to its end; iterate over all of it first"):
            run.results  # noqa: B018
        next(run.steps)
    with pytest.raises(InputError, match="has not come to its end"):
        run.results  # noqa: B018
    assert list(run) == []
    assert len(run.results[0].token_ids) == 9


def test_props_that_no_entry_has_are_no_entry(model):
    with pytest.raises(NoEntryError, match="no entry has the props"):
        model.generate([5, 6], props={"lora": "a"})


@pytest.mark.parametrize("kind", [list, tuple, np.int16, np.int32, np.int64, np.uint8])
def test_completed_is_the_prompt_with_the_answer_in_its_own_type(model, kind):
    ids = prompts(4)[0]
    ids = [token % 200 for token in ids]
    given = kind(ids) if kind in (list, tuple) else np.array(ids, kind)

    result = model.generate(given, max_new_tokens=6, temperature=2.0, seed=1)

    assert type(result.completed) is type(given)
    assert list(result.completed) == [*ids, *result.token_ids]
    assert json.loads(json.dumps(result.to_dict()))["completed"] == [*ids, *result.token_ids]


def test_text_of_a_bundle_without_a_tokenizer_is_a_named_error(model):
    result = model.generate([5, 6], max_new_tokens=2)

    with pytest.raises(InputError, match="no tokenizer, so there is no text; read token_ids"):
        result.text  # noqa: B018
    with pytest.raises(InputError, match="stream: this bundle has no tokenizer"):
        model.stream([5, 6])
    assert result.to_dict()["text"] is None


def test_one_prompt_gives_one_result_and_a_list_gives_a_list(model):
    alone, listed = (model.generate(given, max_new_tokens=2, seed=0) for given in ([5, 6], [[5, 6]]))

    assert listed == [alone]
    assert [r.token_ids for r in model.generate([5, 6], max_new_tokens=2, n=2)] == [alone.token_ids] * 2


def test_a_closed_model_refuses_everything(family):
    with aot.load(family("qwen2").bundle) as model:
        outputs = model.call("prefill", **padded(prompts(4)))
    calls = (lambda: model.generate([5]), lambda: model.call("decode", state=outputs.state))

    for call in calls:
        with pytest.raises(InputError, match="the model was closed; load it again"):
            call()
    model.close()


def test_a_state_can_be_continued_once(model):
    outputs = model.call("prefill", **padded(prompts(4)))
    model.call("decode", state=outputs.state)

    for again in ("decode", "prefill"):
        with pytest.raises(InputError, match="continued by an earlier call; pass the state which that call gave"):
            model.call(again, state=outputs.state, **(padded([[5]]) if again == "prefill" else {}))


def test_a_refused_call_leaves_its_state_to_be_continued(model):
    outputs = model.call("prefill", **padded(prompts(4)))

    with pytest.raises(InputError):
        model.call("decode", state=outputs.state, stop=[1.5])

    assert model.call("decode", state=outputs.state)["steps"] == 4


@pytest.mark.parametrize(
    ("phase", "inputs", "words"),
    [
        ("prefil", {}, "unknown phase 'prefil'; this bundle has decode, fork/1, fork/3, prefill"),
        ("prefill", {"token": [[5]]}, "unknown input 'token'; it takes .*tokens"),
        ("prefill", {"tokens": [[5]]}, "missing or unknown: lengths"),
        ("prefill", {"tokens": [5], "lengths": [1]}, "input tokens has 1 axes, it takes 2"),
        ("prefill", {"tokens": [[5], [6]], "lengths": [1]}, "has 1 for batch_size, another has 2"),
        ("prefill", {"tokens": [[5], [6, 7]], "lengths": [1, 2]}, "input tokens: is no array"),
        ("prefill", {"tokens": [[1.5]], "lengths": [1]}, "tokens is float64, the program takes int32"),
        ("prefill", {"tokens": [["a"]], "lengths": [1]}, "tokens is <U1, the program takes int32"),
        ("prefill", {"tokens": [[2**40]], "lengths": [1]}, "tokens has a value beyond int32"),
        ("prefill", {"tokens": np.zeros((0, 3), int), "lengths": []}, "is empty, its shape is"),
        ("prefill", {"tokens": [[5]], "lengths": [1], "eos": [1, 2]}, r"eos has shape \(2,\), this entry takes \(1,\)"),
        ("prefill", {"tokens": [[5]] * 4, "lengths": [1] * 4}, "4 rows exceed the largest batch_size, 3"),
        ("prefill", {"tokens": [[5] * 17], "lengths": [17]}, "17 tokens exceed the largest prefill bucket, 16"),
        (
            "prefill",
            {"tokens": [[5, 320]], "lengths": [2]},
            r"tokens: has 320 at \[0, 1\], allowed are 0 to 319, the voc",
        ),
        (
            "prefill",
            {"tokens": [[-1]], "lengths": [1]},
            r"tokens: has -1 at \[0, 0\], allowed are 0 to 319, the vocabulary",
        ),
        (
            "prefill",
            {"tokens": [[5, 6]], "lengths": [3]},
            r"lengths: has 3 at \[0\], allowed are 0 to 2, the tokens given",
        ),
        ("prefill", {"tokens": [[5], [6]], "lengths": [1, -1]}, r"lengths: has -1 at \[1\], allowed are 0 to 1"),
        ("prefill", {"tokens": [[5]], "lengths": np.array([2**63], np.uint64)}, "lengths has a value beyond int32"),
        ("decode", {"temperature": [NAN]}, "sampling.temperature: must be a finite number, got nan"),
        ("decode", {"temperature": [1e300]}, "temperature has a value beyond float32"),
        ("decode", {"top_k": [-1]}, "sampling.top_k: must be an integer of at least 0"),
        ("decode", {"top_p": [[NAN]]}, "input top_p has 2 axes, it takes 1"),
        ("decode", {"frequency_penalty": [-3e38]}, "sampling.frequency_penalty: must be from -1e6 to 1e6, got -3e"),
        ("fork/3", {"rows": [0]}, "reads another state; pass what a prefill left as `source`"),
        ("decode", {"mask": [[1]]}, "unknown input 'mask'"),
        ("prefill", {"tokens": [[5]], "mask": [[1, 0]]}, r"mask: is int64 \[1, 2\] beside tokens \[1, 1\]; give that"),
        (
            "prefill",
            {"tokens": [[5, 6, 7]], "mask": [[1, 0, 1]]},
            "mask: must be 1 at the tokens of a row, which stand",
        ),
        ("prefill", {"tokens": [[5, 6]], "mask": [[0, 2]]}, "mask: must be 1 at the tokens of a row"),
        ("prefill", {"tokens": [[5, 6]], "mask": [[0, NAN]]}, "mask: must be 1 at the tokens of a row"),
        (
            "prefill",
            {"tokens": [[5, 6]], "mask": [[0, 1]], "lengths": [2]},
            r"mask: has \[1\] tokens, lengths say other",
        ),
        ("prefill", {"tokens": [[]], "mask": [[]]}, "mask: is float64 "),
        ("prefill", {"tokens": [[5]], "lengths": [1], "state": {}}, "state: must be the `state` of what an earlier"),
    ],
)
def test_a_call_that_does_not_fit_its_phase_is_named(model, phase, inputs, words):
    with pytest.raises(AotError, match=words) as caught:
        model.call(phase, **inputs)

    assert type(caught.value) in (InputError, NoEntryError)
    assert "\n" not in str(caught.value)


def test_a_state_of_other_rows_or_of_another_model_is_refused(model, family):
    three, one = (model.call("prefill", **padded(rows)).state for rows in (prompts(4, 5, 6), prompts(4)))

    with pytest.raises(InputError, match="the inputs have 2 rows, the state that they continue has 3"):
        model.call("decode", state=three, stop=[False, True])
    with aot.load(family("qwen2").bundle) as other, pytest.raises(InputError, match="belongs to another loaded model"):
        other.call("decode", state=one)


def test_pieces_of_a_prefill_end_at_the_last_slot(model):
    pieces = [[16, 9, 4], [16, 16, 4], [16, 16, 4]]
    state = None
    for lengths in pieces:
        state = model.call("prefill", **padded(prompts(*lengths)), state=state).state

    said = "row 1 holds 41 tokens and gets 8 more, it has 48 slots; build with a larger max_length"
    with pytest.raises(InputError, match=said):
        model.call("prefill", tokens=[[5] * 8] * 3, lengths=[0, 8, 8], state=state)
    last = model.call("prefill", tokens=[[5] * 8] * 3, lengths=[0, 7, 8], state=state)
    assert last["token"].shape == (3,)


def test_tokens_that_were_generated_take_slots_too(model):
    state = model.call("prefill", **padded(prompts(16))).state
    for _ in range(5):
        state = model.call("decode", state=state).state

    with pytest.raises(InputError, match="row 0 holds 36 tokens and gets 13 more, it has 48 slots"):
        model.call("prefill", **padded(prompts(13)), state=state)


def test_a_fork_reads_the_rows_that_there_are(model):
    two, one = (model.call("prefill", **padded(rows)).state for rows in (prompts(4, 5), prompts(4)))

    for row in (2, 3, -2, 2**31 - 1):  # of three rows built one holds nothing
        with pytest.raises(InputError, match=rf"rows: has {row} at \[1\], allowed are -1 to 1, the rows of the source"):
            model.call("fork/3", rows=[0, row], source=two)
    for phase, source in (("fork/3", one), ("fork/1", two)):
        with pytest.raises(InputError, match=r"this phase reads .*; call the phase for as many rows"):
            model.call(phase, rows=[0], source=source)
    assert model.call("fork/3", rows=[1, 0, -1], source=two)["token"].shape == (3,)


@pytest.mark.parametrize("pad_to", [None, 11])
@pytest.mark.parametrize("told", ["mask", "lengths", "both"])
def test_what_pad_gives_is_what_it_would_be_with_pads_last(model, told, pad_to):
    rows = prompts(4, 9, 1)
    right = model.call("prefill", **padded(rows))
    tokens, mask = aot.pad(rows, pad_token=7, pad_to=pad_to)
    how = {"mask": mask, "lengths": mask.sum(axis=1)}

    left = model.call("prefill", tokens=tokens, **(how if told == "both" else {told: how[told]}))

    assert left["token"].tolist() == right["token"].tolist()
    assert left["logprob"].tobytes() == right["logprob"].tobytes()
    for row, ids in enumerate(rows):
        assert left["logits"][row, : len(ids)].tobytes() == right["logits"][row, : len(ids)].tobytes()
    following = [model.call("decode", state=outputs.state)["tokens"].tolist() for outputs in (left, right)]
    assert following[0] == following[1]


@pytest.mark.parametrize("kind", [bool, np.int8, np.float32])
def test_a_mask_may_have_pads_on_either_side(model, kind):
    (ids,) = prompts(4)
    right = model.call("prefill", **padded([ids]))

    for before, after in ((0, 3), (3, 0), (1, 2)):
        tokens = [[9] * before + ids + [9] * after]
        mask = np.array([[0] * before + [1] * 4 + [0] * after], kind)
        assert model.call("prefill", tokens=tokens, mask=mask)["token"].tolist() == right["token"].tolist()


def test_what_is_made_of_padded_tokens_is_read_from_the_left(model):
    tokens, _ = aot.pad(prompts(4))

    made = tokens[:, :2]

    assert type(tokens) is padding.Padded
    assert not made.has_pads_first


def test_inputs_for_the_whole_batch_say_nothing_about_its_rows(model):
    outputs = model.call("prefill", **padded(prompts(4, 5, 6)))

    decode = model.call("decode", eos=[-1], state=outputs.state)

    assert decode["tokens"].shape == (3, 4)
    assert decode["steps"] == 4


def test_outputs_are_cut_back_to_the_sizes_of_the_inputs(model):
    outputs = model.call("prefill", **padded(prompts(4, 5)))

    assert {name: array.shape for name, array in outputs.items()} == {
        "token": (2,), "logprob": (2,), "logits": (2, 5, 320),
    }  # fmt: skip


def test_a_fork_leaves_its_source_to_be_forked_again(model):
    rows = prompts(4, 5, 6)
    source = model.call("prefill", **padded(rows))

    forks = [model.call("fork/3", rows=order, source=source.state) for order in ([2, 0], [1, 1, 1])]

    first = source["token"].tolist()
    assert [fork["token"].tolist() for fork in forks] == [[first[2], first[0]], [first[1]] * 3]
    following = model.call("decode", state=source.state)["tokens"].tolist()
    for fork, order in zip(forks, ([2, 0], [1, 1, 1]), strict=True):
        assert model.call("decode", state=fork.state)["tokens"].tolist() == [following[row] for row in order]
