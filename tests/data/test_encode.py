"""Where a completion begins, how it ends, which tokens are trained and what is too long."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rung.data.encode import NO_STOP, SEPARATE, encode, encode_prompt
from rung.data.load import load_examples
from rung.data.records import Message
from rung.data.report import DataReport
from rung.errors import DataError

EOS, BOS = 1, 2
ASKED = "{% if add_generation_prompt %}<turn>assistant\n{% endif %}"


def run(rows, tokenizer, *, max_prompt_length=None, max_length=None, **settings):
    report = DataReport()
    examples, _ = load_examples(rows)
    limits = {"max_prompt_length": max_prompt_length, "max_length": max_length}
    return encode(examples, tokenizer, report=report, **limits, **settings), report


def one(row, tokenizer, **settings):
    (encoded,), _ = run([row], tokenizer, **settings)
    return encoded


def said(tokenizer, answer):
    """What is trained, as text."""
    return tokenizer.decode([i for i, now in zip(answer.ids, answer.trained, strict=True) if now])


def turns(*texts):
    roles = ("user", "assistant")
    return [{"role": roles[i % 2], "content": text} for i, text in enumerate(texts)]


def test_a_text_prompt_is_tokenised_alone_and_its_completion_ends_on_eos(plain):
    encoded = one({"prompt": "ab", "completion": "cd"}, plain)
    assert encoded.prompt_ids == tuple(plain("ab").input_ids) == encode_prompt("ab", plain)
    assert encoded.answers[0].ids == (*plain("cd").input_ids, EOS)
    assert encoded.answers[0].trained == (True, True, True)


def test_eos_is_not_appended_twice(plain, build):
    assert one({"prompt": "a", "completion": "b<eos>"}, plain).answers[0].ids[1:] == (EOS,)
    adds = build(adds_eos=True)
    encoded = one({"prompt": "a", "completion": "b"}, adds)
    assert EOS not in encoded.prompt_ids
    assert encoded.answers[0].ids[1:] == (EOS,)


def test_bos_leads_the_prompt_where_the_tokenizer_adds_it(build):
    encoded = one({"prompt": "a", "completion": "b"}, build(adds_bos=True))
    assert encoded.prompt_ids[0] == BOS
    assert BOS not in encoded.answers[0].ids


def test_a_prompt_whose_last_token_grows_over_the_boundary_keeps_its_ids(build):
    """With the merge a+b, "xa" + "b" is [x, ab]: the prompt [x, a] is no prefix of it, so "b" is tokenised alone."""
    merging = build(merges=[("a", "b")])
    (encoded,), report = run([{"prompt": "xa", "completion": "bc"}], merging)
    x, a, b, c = (merging(letter).input_ids[0] for letter in "xabc")
    assert len(merging("xabc").input_ids) == 3
    assert encoded.prompt_ids == (x, a) == encode_prompt("xa", merging)
    assert encoded.answers[0].ids == (b, c, EOS)
    assert report.noticed[SEPARATE].count == 1


@pytest.mark.parametrize("settings", [{"has_bos": True}, {"adds_bos": True}])
def test_raw_text_starts_with_bos_where_there_is_one(build, settings):
    tokenizer = build(**settings)
    for text in ("ab", "<bos>ab"):
        encoded = one({"text": text}, tokenizer)
        assert encoded.prompt_ids == (BOS,)
        assert encoded.answers[0].ids == (*tokenizer("ab", add_special_tokens=False).input_ids, EOS)


def test_raw_text_without_bos_starts_with_its_first_token(plain):
    encoded = one({"text": "ab"}, plain)
    a, b = plain("ab").input_ids
    assert encoded.prompt_ids == (a,)
    assert encoded.answers[0].ids == (b, EOS)


def test_a_pair_shares_its_prompt_and_stands_chosen_first(plain):
    encoded = one({"prompt": "p", "chosen": "good", "rejected": "bad"}, plain)
    assert [said(plain, answer) for answer in encoded.answers] == ["good<eos>", "bad<eos>"]


def test_a_chat_prompt_is_what_the_sampler_sees(chat):
    encoded = one({"prompt": turns("hi"), "completion": turns("hi", "yes")[1:]}, chat)
    expected = chat.apply_chat_template(turns("hi"), add_generation_prompt=True, return_dict=False)
    assert encoded.prompt_ids == tuple(expected) == encode_prompt((Message(role="user", content="hi"),), chat)
    assert said(chat, encoded.answers[0]) == "yes<eos>"


def test_what_the_template_writes_after_the_stop_token_is_attended_and_not_trained(chat):
    (answer,) = one({"messages": turns("hi", "yes")}, chat).answers
    assert chat.decode(answer.ids) == "yes<eos>\n"
    assert answer.trained == (True, True, True, True, False)


@pytest.mark.parametrize("name", ["chat", "marked"])
def test_only_the_assistants_turns_are_trained_with_their_ends(name, request):
    tokenizer = request.getfixturevalue(name)
    row = {"messages": [{"role": "system", "content": "s"}, *turns("u1", "a1", "u2", "a2")]}
    (answer,) = one(row, tokenizer).answers
    assert tokenizer.decode(answer.ids) == "a1<eos>\n<turn>user\nu2<eos>\n<turn>assistant\na2<eos>\n"
    assert said(tokenizer, answer) == "a1<eos>a2<eos>"


def test_without_assistant_only_all_after_the_prompt_is_trained(chat):
    (answer,) = one({"messages": turns("u1", "a1", "u2", "a2")}, chat, assistant_only=False).answers
    assert said(chat, answer) == "a1<eos>\n<turn>user\nu2<eos>\n<turn>assistant\na2<eos>"


words = st.text(st.characters(blacklist_categories=["Cs", "Cc", "Z"]), min_size=1, max_size=6)


@settings(max_examples=40)
@given(st.lists(words, min_size=2, max_size=6).filter(lambda texts: len(texts) % 2 == 0))
def test_any_conversation_trains_what_the_assistant_says(chat, marked, texts):
    row = {"messages": turns(*texts)}
    ours, theirs = one(row, chat), one(row, marked)
    assert said(chat, ours.answers[0]) == "".join(f"{text}<eos>" for text in texts[1::2])
    assert ours.answers == theirs.answers
    whole = chat.apply_chat_template(row["messages"], return_dict=False)
    assert list(ours.prompt_ids + ours.answers[0].ids) == whole


@settings(max_examples=40)
@given(words, words)
def test_any_prompt_and_completion_add_up_to_the_text(plain, prompt, completion):
    encoded = one({"prompt": prompt, "completion": completion}, plain)
    assert plain.decode(encoded.prompt_ids + encoded.answers[0].ids) == f"{prompt}{completion}<eos>"


def test_an_answer_that_does_not_begin_as_sampling_does_is_an_error(build):
    """A thought that only the generation prompt opens: trained answers would stand where no sampled answer does."""
    thinking = build(
        chat="{% for m in messages %}<turn>{{ m['role'] }}\n{{ m['content'] }}<eos>{% endfor %}"
        "{% if add_generation_prompt %}<turn>assistant\n# think{% endif %}"
    )
    with pytest.raises(DataError, match=r"rows, row 1: .* begins the answer differently from its generation prompt"):
        run([{"messages": turns("hi", "yes")}], thinking)


def test_a_template_that_never_stops_a_turn_is_noticed(build):
    endless = build(chat="{% for m in messages %}<turn>{{ m['role'] }}\n{{ m['content'] }}\n{% endfor %}" + ASKED)
    _, report = run([{"messages": turns("hi", "yes")}], endless)
    assert report.noticed[NO_STOP].count == 1


def test_a_template_that_rewrites_the_prompt_is_an_error(build):
    forgetful = build(
        chat="{% for m in messages %}<turn>{{ m['role'] }}\n{% if loop.last %}(last) {% endif %}"
        "{{ m['content'] }}<eos>{% endfor %}" + ASKED
    )
    with pytest.raises(DataError, match=r"rows, row 1: .*writes the prompt differently once an answer follows"):
        run([{"messages": turns("u1", "a1", "u2", "a2")}], forgetful)


def test_turns_that_the_template_refuses_are_an_error_or_counted(build):
    strict = build(
        chat="{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no system turns') }}{% endif %}"
        "<turn>{{ m['role'] }}\n{{ m['content'] }}<eos>{% endfor %}" + ASKED
    )
    rows = [{"messages": [{"role": "system", "content": "s"}, *turns("u", "a")]}, {"messages": turns("u", "a")}]
    with pytest.raises(DataError, match=r"rows, row 1: the chat template rejects the messages \(no system turns\)"):
        run(rows, strict)
    encoded, report = run(rows, strict, on_bad_row="skip", max_bad_share=0.5)
    assert len(encoded) == 1
    assert report.num_dropped == 1


def test_chat_data_without_a_chat_template_is_an_error(plain):
    with pytest.raises(DataError, match="no chat template"):
        run([{"messages": turns("hi", "yes")}], plain)


def test_sides_that_differ_in_text_and_not_in_tokens_are_equal(plain):
    with pytest.raises(DataError, match="`chosen` equals `rejected`"):
        run([{"prompt": "p", "chosen": "a", "rejected": "a<eos>"}], plain)


LONG = [{"prompt": "p" * 5, "completion": "c" * 3}, {"prompt": "p" * 3, "completion": "c" * 9}]


def test_overlong_rows_are_dropped_and_counted_by_cause(plain):
    rows = [*LONG, {"prompt": "p", "completion": "c"}, {"prompt": "p" * 9, "completion": "c"}]
    encoded, report = run(rows, plain, max_prompt_length=4, max_length=8)
    assert [e.source for e in encoded] == ["rows:3"]
    assert {cause: tally.first for cause, tally in report.dropped.items()} == {
        "the prompt is longer than max_prompt_length 4": ["rows:1", "rows:4"],
        "prompt and completion are longer than max_length 8": ["rows:2"],
    }
    assert report.encoded == 1


def test_a_row_that_just_fits_is_kept(plain):
    encoded, _ = run(LONG[:1], plain, max_prompt_length=5, max_length=9)
    assert encoded[0].num_tokens == 9


def test_overlong_rows_can_be_an_error(plain):
    with pytest.raises(
        DataError, match=r"rows, row 2: prompt and completion are longer than max_length 9 \(3 \+ 10 tokens\)"
    ):
        run(LONG, plain, max_length=9, on_overlong="error")


def test_truncation_cuts_the_end_of_answers_and_never_a_prompt(plain):
    encoded, report = run([*LONG, {"prompt": "p" * 6, "completion": "c"}], plain, max_length=6, on_overlong="truncate")
    assert [plain.decode(e.prompt_ids + e.answers[0].ids) for e in encoded] == ["pppppc", "pppccc"]
    assert report.noticed["truncated to max_length 6"].count == 2
    assert list(report.dropped) == ["the prompt leaves no room for a completion within max_length 6"]


def test_sides_that_are_equal_after_the_cut_are_dropped(plain):
    rows = [
        {"prompt": "p", "chosen": "same, then good", "rejected": "same, then bad"},
        {"prompt": "p", "chosen": "a", "rejected": "b"},
    ]
    encoded, report = run(rows, plain, max_length=8, on_overlong="truncate")
    assert [e.source for e in encoded] == ["rows:2"]
    assert list(report.dropped) == ["`chosen` equals `rejected` after truncation"]


def test_a_cut_that_leaves_no_trained_token_drops_the_row(build):
    """The told turn opens with ten letters of decoration that the generation marks leave out."""
    late = build(
        chat="{% for m in messages %}<turn>{{ m['role'] }}\n{% if m['role'] == 'assistant' %}decoration{% generation %}"
        "{{ m['content'] }}{% endgeneration %}{% else %}{{ m['content'] }}{% endif %}<eos>{% endfor %}" + ASKED
    )
    kept = one({"messages": turns("u", "a")}, late)
    assert said(late, kept.answers[0]) == "a<eos>"
    with pytest.raises(DataError, match="no trained token is left after truncation"):
        run([{"messages": turns("u", "a")}], late, max_length=len(kept.prompt_ids) + 10, on_overlong="truncate")


def test_prompts_to_sample_from_have_no_answers(plain):
    encoded = one({"prompt": "p", "answer": "4"}, plain)
    assert encoded.answers == ()
    assert encoded.example.columns["answer"] == "4"


def test_nothing_left_is_an_error(plain):
    with pytest.raises(DataError, match="no example is left"):
        run(LONG, plain, max_length=2)


def test_lengths_and_lopsided_pairs_are_reported(plain):
    rows = [{"prompt": f"p{i}", "chosen": f"longer {i}", "rejected": "short"} for i in range(60)]
    _, report = run(rows, plain)
    assert report.as_dict()["tokens"]["completion"] == {"p50": 6, "p90": 10, "p99": 10, "max": 10}
    assert "longer in 100% of the pairs" in report.warnings[0]
