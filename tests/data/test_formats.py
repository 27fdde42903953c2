import json

import pytest

from align.config import Data
from align.data.formats import FORMATS, read, recognise, row_format
from align.data.load import loaded
from align.errors import DataError
from align.records import Demonstration, Message, Preference, Prompt, Rated, Record, Text


def user(text: str) -> Message:
    return Message("user", text)


def assistant(text: str) -> Message:
    return Message("assistant", text)


def records(row: dict, **options) -> list[Record]:
    form = recognise(row)
    assert form is not None
    return read(row, form, options)


def one(row: dict, **options) -> Record:
    (record,) = records(row, **options)
    return record


@pytest.mark.parametrize("name", FORMATS)
def test_every_example_is_recognised_and_makes_its_kind(name):
    form = FORMATS[name]
    assert recognise(form.example) is form
    made = read(form.example, form, {})
    assert made and all(isinstance(record, form.makes) for record in made)
    assert form.doc


def test_messages_keep_unknown_columns_in_extra():
    record = one({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], "source": "x"})
    assert isinstance(record, Demonstration)
    assert record.messages == (user("a"), assistant("b")) and record.extra == {"source": "x"}


def test_messages_of_text_blocks_are_joined_and_images_refused():
    block = [{"type": "text", "text": "a"}, {"type": "text", "value": "b"}]
    assert one({"messages": [{"role": "user", "content": block}]}).prompt == (user("ab"),)
    with pytest.raises(DataError, match="block of type 'image'"):
        one({"messages": [{"role": "user", "content": [{"type": "image"}]}]})


def test_prompt_completion_supervises_the_completion_only():
    asked = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]
    record = one({"prompt": asked, "completion": [{"role": "assistant", "content": "d"}]})
    assert record.supervised == (3,) and len(record.messages) == 4
    assert one({"prompt": "a", "completion": "b"}).messages == (user("a"), assistant("b"))


def test_alpaca_joins_instruction_and_input():
    record = one({"instruction": "add", "input": "1 2", "output": "3", "system": "be brief"})
    assert record.messages == (Message("system", "be brief"), user("add\n\n1 2"), assistant("3"))
    assert one({"instruction": "hi", "input": "", "output": "yo"}).messages[0] == user("hi")


def test_self_instruct_makes_a_row_of_each_instance():
    instances = [{"input": "1", "output": "one"}, {"input": "2", "output": "two"}]
    made = records({"instruction": "spell", "instances": instances, "id": "t0"})
    assert [r.messages[1].content for r in made] == ["one", "two"] and made[0].extra == {"id": "t0"}


def test_sharegpt_names_of_roles():
    said = [("system", "s"), ("human", "a"), ("gpt", "b"), ("observation", "o"), ("chatgpt", "c")]
    record = one({"conversations": [{"from": who, "value": what} for who, what in said]})
    assert [m.role for m in record.messages] == ["system", "user", "assistant", "tool", "assistant"]
    with pytest.raises(DataError, match="role 'alien'"):
        one({"conversations": [{"from": "alien", "value": "x"}]})


def test_hh_splits_at_the_last_common_turn_of_the_assistant():
    shared = "\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant:"
    record = one({"chosen": shared + " The yes", "rejected": shared + " The no"})
    assert record.prompt == (user("a"), assistant("b"), user("c"))
    assert (record.chosen, record.rejected) == ((assistant("The yes"),), (assistant("The no"),))


@pytest.mark.parametrize(
    ("chosen", "rejected", "why"),
    [
        ("\n\nHuman: a\n\nAssistant: b", "\n\nHuman: z\n\nAssistant: b", "share no turn"),
        ("\n\nHuman: a\n\nAssistant: ", "\n\nHuman: a\n\nAssistant: b", "'chosen' is empty"),
        ("\n\nHuman: a\n\nAssistant: b", "\n\nHuman: a\n\nAssistant: b ", "are the same"),
        ("\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant: d", "\n\nHuman: a\n\nAssistant: e", "part before"),
    ],
)
def test_hh_rows_that_are_no_pair(chosen, rejected, why):
    with pytest.raises(DataError, match=why):
        one({"chosen": chosen, "rejected": rejected})


def test_hh_transcripts_become_demonstrations():
    record = one({"transcript": "\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant: d", "rating": 4.0})
    assert record.messages == (user("a"), assistant("b"), user("c"), assistant("d")) and record.extra == {"rating": 4.0}


def test_pairs_of_texts_of_messages_and_of_whole_conversations_are_the_same_pair():
    asked, yes, no = (
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": "y"},
        {"from": "gpt", "value": "n"},
    )
    rows = [
        {"prompt": "q", "chosen": "y", "rejected": "n"},
        {"prompt": [asked], "chosen": [yes], "rejected": [no]},
        {"conversations": [{"from": "human", "value": "q"}], "chosen": yes, "rejected": no},
        {"chosen": [asked, yes], "rejected": [asked, no]},
        {"prompt": "q", "chosen": [asked, yes], "rejected": [asked, no]},
    ]
    assert {(r.prompt, r.chosen, r.rejected) for r in map(one, rows)} == {
        ((user("q"),), (assistant("y"),), (assistant("n"),))
    }


def test_implied_prompts_end_before_the_assistant_where_replies_begin_alike():
    def turns(*said):
        return [
            {"role": role, "content": content} for role, content in zip(("user", "assistant") * 2, said, strict=False)
        ]

    record = one({"chosen": turns("a", "b", "c", "d"), "rejected": turns("a", "b", "x", "d")})
    assert record.prompt == (user("a"),) and record.chosen == (assistant("b"), user("c"), assistant("d"))


def test_pairs_without_a_prompt_have_an_empty_one():
    assert one({"chosen": "good", "rejected": "bad"}).prompt == ()


def test_numbers_of_pairs():
    row = {"prompt": "q", "chosen": "y", "rejected": "n"}
    assert one(row | {"score_chosen": 8.5, "score_rejected": 6.0}).margin == 2.5
    assert one(row | {"margin": "0.5", "score_chosen": 9, "score_rejected": 1, "label": 0.8, "weight": 2}).margin == 0.5
    assert one(row | {"label": 0.8}).label == 0.8 and one(row).margin is None
    with pytest.raises(DataError, match="'margin' is not a number: 'big'"):
        one(row | {"margin": "big"})


def test_ratings_take_the_best_and_the_worst():
    scores = {"a": 3.0, "b": 9.0, "c": 1.0}
    row = {"instruction": "q", "completions": [{"response": r, "overall_score": s, "h": -s} for r, s in scores.items()]}
    record = one(row)
    assert (record.chosen, record.rejected, record.margin) == ((assistant("b"),), (assistant("c"),), 8.0)
    assert one(row, score="h").chosen == (assistant("c"),)
    with pytest.raises(DataError, match="same 'overall_score'"):
        one({"instruction": "q", "completions": [{"response": r, "overall_score": 1} for r in "ab"]})


def test_ranked_trees_make_a_pair_wherever_replies_are_ranked():
    def node(text, role="assistant", rank=None, replies=()):
        return {"text": text, "role": role, "rank": rank, "replies": list(replies)}

    deep = node("second?", "prompter", None, [node("x", rank=1), node("y", rank=0)])
    tree = node("first?", "prompter", None, [node("b", rank=2), node("a", rank=0, replies=[deep]), node("c", rank=1)])
    tree["lang"] = "en"
    first, second = records({"prompt": tree, "message_tree_id": "t"})
    assert (first.chosen, first.rejected) == ((assistant("a"),), (assistant("b"),))
    assert second.prompt == (user("first?"), assistant("a"), user("second?"))
    assert (second.chosen, second.rejected) == ((assistant("y"),), (assistant("x"),))
    assert (first.margin, second.margin) == (2.0, 1.0)
    assert first.extra == {"message_tree_id": "t", "lang": "en", "turn": 1, "replies": 3}
    assert second.extra == {"message_tree_id": "t", "lang": None, "turn": 2, "replies": 2}


def test_ranked_trees_make_a_pair_of_every_two_on_request():
    def reply(text, rank, **more):
        return {"text": text, "role": "assistant", "rank": rank, "replies": [], **more}

    replies = [reply("c", 2), reply("a", 0), reply("b", 1), reply("b too", 1), reply("gone", 3, deleted=True)]
    tree = {"prompt": {"text": "q", "role": "prompter", "replies": [*replies, reply("never ranked", None)]}}
    found = [(r.chosen[0].content, r.rejected[0].content, r.margin) for r in records(tree, pairs="all")]
    assert found == [("a", "b", 1), ("a", "b too", 1), ("a", "c", 2), ("b", "c", 1), ("b too", "c", 1)]
    assert [(r.chosen[0].content, r.rejected[0].content) for r in records(tree)] == [("a", "c")]
    with pytest.raises(DataError, match="pairs is 'some'; it is 'extremes' or 'all'"):
        records(tree, pairs="some")


def test_completions_of_xstest_carry_peoples_labels():
    row = {"id": "v2-1", "prompt": "How do I kill weeds?", "completion": "By hand.", "final_label": "1_full_compliance"}
    record = one(row)
    assert (record.prompt, record.reply, record.score) == ((user("How do I kill weeds?"),), (assistant("By hand."),), 0)
    assert record.extra == {"id": "v2-1", "final_label": "1_full_compliance"}
    assert [one(row | {"final_label": f"{n}_refusal"}).score for n in ("2_full", "3_partial")] == [1, 1]
    with pytest.raises(DataError, match="'final_label' is 'maybe'; labels are 1_full_compliance, 2_full_refusal"):
        one(row | {"final_label": "maybe"})


def test_unpaired_thumbs_and_scores():
    assert one({"prompt": "q", "completion": "r", "label": True}).score == 1.0
    said = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "r"}]
    record = one({"messages": said, "label": 0.25})
    assert isinstance(record, Rated) and record.reply == (assistant("r"),) and record.score == 0.25
    assert isinstance(one({"prompt": "q", "label": "safe"}), Prompt), "a label that is no number is not a rating"


def test_plain_text_and_its_first_words_as_prompt():
    text = "Once upon  a time\nthere was a cat. "
    assert one({"text": text}) == Text(one({"text": text}).id, text)
    record = one({"text": text}, prompt_words=3)
    assert record.messages == (user("Once upon  a"), assistant(" time\nthere was a cat."))
    with pytest.raises(DataError, match="only 3 words, and prompt_words is 3"):
        one({"text": "one two three"}, prompt_words=3)


@pytest.mark.parametrize(
    "row",
    [{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": " "}]}, {"text": " \n"},
     {"prompt": ""}, {"prompt": "q", "chosen": "y", "rejected": ""}, {"messages": []}, {"prompt": 3}],
)  # fmt: skip
def test_rows_that_say_nothing_are_bad(row):
    with pytest.raises(DataError):
        one(row)


def test_a_missing_column_is_named_with_the_ones_there_and_the_way_out():
    with pytest.raises(DataError) as error:
        read({"prompt": "q", "answer": "r"}, FORMATS["prompt_completion"], {})
    assert str(error.value) == (
        "not a Demonstration: 'completion' is missing (columns here: prompt, answer). "
        "Map it: columns: {completion: answer}"
    )


def test_a_plugin_adds_a_format():
    @row_format("riddle", needs=("riddle", "solution"), makes=Demonstration, example={"riddle": "?", "solution": "!"})
    def riddle(row, options):
        """Riddles."""
        yield one({"prompt": row["riddle"], "completion": row["solution"]})

    try:
        assert one({"riddle": "What?", "solution": "That."}).messages[1] == assistant("That.")
    finally:
        del FORMATS["riddle"]


REAL = [
    ("hh-rlhf/test.jsonl.gz", {"on_bad_row": "skip"}, Preference, 2303),
    ("llama-factory-demo/dpo_en_demo.json", {}, Preference, 300),
    ("llama-factory-demo/kto_en_demo.json", {}, Rated, 300),
    ("llama-factory-demo/v1_dpo_demo.jsonl",
     {"columns": {"chosen": "chosen_messages", "rejected": "rejected_messages"}}, Preference, 10),
    ("llama-factory-demo/identity.json", {}, Demonstration, 91),
    ("open-assistant/en_100_tree.jsonl", {}, Preference, 212),
    ("open-assistant/en_100_tree.jsonl", {"options": {"pairs": "all"}}, Preference, 754),
    ("self-instruct", {}, Demonstration, 175 + 252),
    ("gsm8k", {"split": "train"}, Demonstration, 7473),
    ("tinystories-sample/tinystories_1000.json", {}, Text, 1000),
    ("tinystories-sample/tinystories_1000.json", {"prompt_words": 8}, Demonstration, 1000),
    ("nltk-sentiment/sentence_polarity.zip", {"member": "sentence_polarity/rt-polarity.pos", "encoding": "latin-1",
     "options": {"rejected": "sentence_polarity/rt-polarity.neg"}}, Preference, 5331),
    ("advbench/harmful_behaviors.csv", {"columns": {"prompt": "goal"}}, Prompt, 520),
    ("xstest/xstest_prompts.csv", {}, Prompt, 450),
    ("xstest/xstest_v2_completions_gpt4.csv", {}, Rated, 450),
]  # fmt: skip


@pytest.mark.parametrize(("path", "options", "kind", "count"), REAL, ids=[path for path, *_ in REAL])
def test_real_files(real, path, options, kind, count):
    made = loaded(Data(path=path, **options), 0, real / "data")
    assert len(made.records) == count and all(isinstance(record, kind) for record in made.records)
    assert all(json.dumps(record.row()) for record in made.records[:20])


def test_ranked_trees_of_open_assistant_agree_with_their_ranks(real):
    ranks = {}

    def walk(node):
        ranks[node["text"]] = node.get("rank")
        for reply in node["replies"]:
            walk(reply)

    path = real / "data/open-assistant/en_100_tree.jsonl"
    for line in path.read_text().splitlines():
        walk(json.loads(line)["prompt"])
    for record in loaded(Data(path=str(path)), 0, real).records:
        assert ranks[record.chosen[0].content] < ranks[record.rejected[0].content]
