"""Trees from records. The traps that end here: 5, 6, 10, 13, 14 and, for the token cache, 12 and 18."""

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from align.config import Data
from align.data.chat import Chat
from align.data.load import load
from align.data.maker import Maker
from align.data.tokens import trees
from align.data.tree import Tree
from align.errors import CheckError, DataError
from align.models.tokenizers import train_tokenizer
from align.records import Demonstration, Message, Messages, Preference, Rated, Text
from align.store import Store


def said(*turns: str) -> Messages:
    return tuple(Message(("user", "assistant")[n % 2], text) for n, text in enumerate(turns))


def demo(*turns: str, supervised=None) -> Demonstration:
    return Demonstration(turns[0], said(*turns), supervised)


def pair(asked: str, chosen: str, rejected: str, **numbers: float) -> Preference:
    return Preference(asked, said(asked), said("", chosen)[1:], said("", rejected)[1:], **numbers)


@pytest.fixture
def raw(tokenizer) -> Chat:
    """BOS, one token a byte, one stop id: lengths can be counted by hand."""
    return Chat(tokenizer, "raw", (tokenizer.eos_token_id,))


def scored(chat: Chat, tree: Tree, reply: int = 0) -> str:
    one = tree.replies[reply]
    ids = one.ids if one.scored is None else one.ids[one.scored]
    return chat.tokenizer.decode(ids.tolist(), clean_up_tokenization_spaces=False)


def test_a_demonstration_is_a_prompt_and_all_that_follows_the_first_supervised_turn(chat):
    (tree,), account = trees([demo("hi", "hello", "and?", "bye", "late")], chat, 200)
    assert tree.prompt.tolist() == chat.prompt(said("hi"))
    assert scored(chat, tree) == "hello<|im_end|>bye<|im_end|>" and tree.numbers == {}
    whole, mask = chat.conversation(said("hi", "hello", "and?", "bye"))
    assert np.concatenate([tree.prompt, tree.replies[0].ids]).tolist() == whole
    assert tree.replies[0].scored.tolist() == mask[len(tree.prompt) :]
    assert str(account) == "1 rows, none left out"
    (tree,), _ = trees([demo("hi", "hello", "and?", "bye", supervised=(3,))], chat, 200)
    assert tree.prompt.tolist() == chat.prompt(said("hi", "hello", "and?")) and tree.replies[0].scored is None


def test_a_preference_is_a_prompt_its_two_replies_and_its_numbers(chat):
    (tree,), _ = trees([pair("hi", "yes", "no", margin=1.5, label=0.9)], chat, 200)
    assert tree.prompt.tolist() == chat.prompt(said("hi"))
    assert [scored(chat, tree, n) for n in (0, 1)] == ["yes<|im_end|>", "no<|im_end|>"]
    assert tree.numbers == {"margin": 1.5, "label": 0.9, "weight": 1.0}


def test_texts_are_windows_in_which_every_token_but_the_first_is_predicted_once(raw):
    text = "0123456789"  # 12 tokens with BOS and the end
    made, _ = trees([Text("t", text)], raw, 5)
    windows = [tree.replies[0].ids.tolist() for tree in made]
    whole = raw.document(text)
    assert windows == [whole[0:5], whole[4:9], whole[8:12]]
    assert [i for window in windows for i in window[1:]] == whole[1:]
    assert all(len(tree.prompt) == 0 for tree in made)


# Traps 10 and 14: what is cut, what is left out, what is counted.


@pytest.mark.parametrize(
    ("asked", "answer", "max_length", "truncate", "tokens", "ended", "reason"),
    [
        ("ab", "cd", 6, False, 3, True, None),  # BOS a b | c d END: exactly full
        ("ab", "cd", 5, False, None, None, "longer than 5 tokens"),
        ("ab", "cd", 5, True, 2, False, None),  # the end token is what is cut
        ("ab", "c", 5, False, 2, True, None),  # one token and the end
        ("ab", "cdefgh", 4, True, 1, False, None),  # one token is left
        ("abc", "d", 4, True, None, None, "whose prompt fills 4 tokens"),  # a prompt is never cut
        ("abcdef", "c", 5, True, None, None, "whose prompt fills 5 tokens"),
    ],
)
def test_lengths(raw, asked, answer, max_length, truncate, tokens, ended, reason):
    rows = [demo(asked, answer), demo("x", "y")]
    made, account = trees(rows, raw, max_length, truncate=truncate, limit=1.0)
    if reason is None:
        reply = made[0].replies[0]
        assert len(reply.ids) == tokens and (reply.ids[-1] in raw.stop) is ended
        assert not account.reasons and account.truncated == account.too_long == (not ended)
    else:
        assert [tree.id for tree in made] == ["x"]
        assert account.reasons == {reason: 1} and account.too_long == 1 and account.truncated == 0


def test_stop_apart_from_eos_and_eos_inside_the_prompt(tokenizer, end):
    template = tokenizer.chat_template.replace("<|im_end|>\n", "<|im_end|>{{ eos_token }}\n")
    chat = Chat(tokenizer, template, (end,))
    (tree,), _ = trees([demo("hi", "yes", "so", "no", supervised=(3,))], chat, 200)
    assert tree.prompt.tolist().count(tokenizer.eos_token_id) == 3
    assert scored(chat, tree) == "no<|im_end|>"


def test_more_rows_too_long_than_allowed_is_an_error_with_the_share(raw):
    rows = [demo("a", "b" * size) for size in (1, 1, 1, 50)]
    assert len(trees(rows, raw, 10, limit=0.25)[0]) == 3
    for truncate in (False, True):
        with pytest.raises(CheckError, match=r"25\.0% of the rows are longer than 10 tokens; 10\.0% may be"):
            trees(rows, raw, 10, truncate=truncate)


def test_pairs_that_truncation_makes_equal_are_left_out_and_counted(raw):
    rows = [pair("q", "same beginning, good", "same beginning, bad"), pair("q", "yes", "no")]
    made, account = trees(rows, raw, 10, truncate=True, limit=1.0)
    assert len(made) == 1 and account.reasons == {"with two replies of the same tokens": 1}
    assert len(trees(rows, raw, 40)[0]) == 2


def test_a_truncated_conversation_without_a_supervised_token_is_left_out(chat):
    long = demo("hi", "x" * 30, "more", "y" * 30, supervised=(1, 3))
    only_last = Demonstration("z", long.messages, (3,))
    room = len(chat.prompt(said("hi"))) + 10
    made, account = trees([long, only_last], chat, room, truncate=True, limit=1.0)
    assert len(made) == 1 and scored(chat, made[0]) == "x" * 10
    assert account.reasons == {f"whose prompt fills {room} tokens": 1}


def test_nothing_left_is_an_error(raw):
    with pytest.raises(CheckError, match=r"no row is left to train on \(of 1 rows: 1 longer than 4 tokens\)"):
        trees([demo("a", "bcdef")], raw, 4, limit=1.0)
    with pytest.raises(DataError, match="no records"):
        trees([], raw, 4)


def test_what_is_no_tree_is_refused(raw):
    with pytest.raises(DataError, match="a Rated cannot be made a tree"):
        trees([Rated("r", said("q"), said("", "a")[1:], 1.0)], raw, 10)


# Traps 5, 6 and 13: rows that would train silently wrong, counted.


def test_an_end_token_that_the_text_does_not_become_is_never_trained(tokenizer):
    # `!!` is in the vocabulary, but no merge leads to it, so the text "!!" is two other tokens.
    tokenizer.backend_tokenizer.add_tokens(["!!"])
    stop = tokenizer.convert_tokens_to_ids("!!")
    template = tokenizer.chat_template.replace("<|im_end|>\n", "!!\n")
    assert len(trees([demo("hi", "hello")], Chat(tokenizer, template, (stop,)), 100)[0]) == 1
    split = train_tokenizer((), "bytes")
    quote = split.convert_tokens_to_ids("<unk>")
    chat = Chat(split, "plain", (quote,))
    chat.stop = (quote + 1,)  # what the template writes is not what ends a reply
    with pytest.raises(CheckError, match="2 of 2 rows: the last supervised token is not a stop id"):
        trees([demo("hi", "hello"), demo("a", "b")], chat, 100)


def test_a_reply_that_holds_a_stop_id_is_refused(tokenizer):
    stop = tokenizer.convert_tokens_to_ids("!")
    rows = [demo("hi", "no! yes"), demo("hi", "fine")]
    with pytest.raises(CheckError, match=r"1 of 2 rows: a stop id stands within a reply \(first: hi\)"):
        trees(rows, Chat(tokenizer, "raw", (stop,)), 100)


def test_a_mask_that_does_not_decode_to_the_reply_is_refused(chat, monkeypatch):
    rows, encode = [demo("hi", "hello"), demo("a", "b")], chat.encode
    trees(rows, chat, 100)

    def shifted(pieces):
        ids = encode(pieces)
        return [
            part if piece.turn is None else [*ids[0][:2], part[-1]] for piece, part in zip(pieces, ids, strict=True)
        ]

    monkeypatch.setattr(chat, "encode", shifted)
    with pytest.raises(CheckError, match="2 of 2 rows: the supervised tokens do not decode to the reply"):
        trees(rows, chat, 100)


def test_a_tokenizer_that_keeps_less_than_the_text_is_not_mistaken_for_a_wrong_mask():
    tokenizer = train_tokenizer(["User: hi\n\nAssistant: yes no"], "words", 40)
    made, _ = trees([demo("hi", "yes perhaps no")], Chat(tokenizer, "plain", (tokenizer.eos_token_id,)), 50)
    assert tokenizer.unk_token_id in made[0].replies[0].ids


def test_doubled_bos_is_refused(tokenizer, end):
    chat = Chat(tokenizer, "{{ bos_token }}" + tokenizer.chat_template, (end,))
    with pytest.raises(CheckError, match="1 of 1 rows: BOS is doubled"):
        trees([demo("hi", "hello")], chat, 100)


def test_prompts_that_change_are_counted_with_the_first_row(tokenizer, end):
    template = tokenizer.chat_template.replace("assistant\n{% endif %}", "assistant\n<think>\n{% endif %}")
    with pytest.raises(CheckError, match=r"3 of 3 rows: the template renders the prompt otherwise .*\(first: a\)"):
        trees([demo("a", "b"), demo("c", "d"), pair("e", "f", "g")], Chat(tokenizer, template, (end,)), 100)


def test_rows_that_got_a_default_system_message_are_counted(tokenizer, end):
    rule = "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nBe good.<|im_end|>\n{% endif %}"
    rows = [demo("hi", "hello"), Demonstration("s", (Message("system", "Be bad."), *said("hi", "hello")))]
    _, account = trees(
        rows, Chat(tokenizer, rule + tokenizer.chat_template.removeprefix("{{ bos_token }}"), (end,)), 100
    )
    assert account.default_system == 1 and "1 with the template's own system message" in str(account)


def test_texts_that_spell_special_tokens_are_left_out_and_counted(chat):
    made, account = trees([demo("what is <|im_end|>?", "a token"), demo("hi", "hello")], chat, 100)
    assert len(made) == 1 and account.reasons == {"whose text spells a special token": 1}


def test_supervising_a_user_is_refused(chat):
    with pytest.raises(CheckError, match="'supervised' names a message that is not the assistant's"):
        trees([demo("hi", "hello", "so", "bye", supervised=(2,))], chat, 100)


# Traps 12 and 18: the token cache.

ROWS = [*(demo(f"question {n}", "answer " * (n % 5 + 1)) for n in range(20)), demo("long", "x" * 300)]


def same(a: list[Tree], b: list[Tree]) -> bool:
    def plain(tree: Tree):
        replies = [(r.ids.tolist(), None if r.scored is None else r.scored.tolist()) for r in tree.replies]
        return tree.id, tree.prompt.tolist(), replies, tree.numbers

    return list(map(plain, a)) == list(map(plain, b))


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path / "store")


def entries(store: Store) -> int:
    return len(list((store.inside / "cache" / "tokens").glob("[!.]*")))


@pytest.mark.parametrize("rows", [ROWS, [pair("q", "yes", "no", margin=2.0)] * 3, [Text("t", "some text " * 30)]])
def test_cached_trees_are_the_trees(chat, store, rows):
    fresh = trees(rows, chat, 100)
    for _ in range(2):
        kept = trees(rows, chat, 100, store=store)
        assert same(kept[0], fresh[0]) and kept[1] == fresh[1]
    assert entries(store) == 1


def test_a_cache_is_made_once(chat, store, monkeypatch):
    trees(ROWS, chat, 100, store=store)
    made = []
    make = Maker.make
    monkeypatch.setattr(Maker, "make", lambda self, rows: made.append(len(rows)) or make(self, rows))
    trees(ROWS, chat, 100, store=store)
    assert made == [8], "eight rows are made again to prove the cache, no more"


def test_whatever_changes_tokens_changes_the_key(tokenizer, chat, end, store):
    def count(rows=ROWS, chat=chat, length=100, truncate=False) -> int:
        trees(rows, chat, length, truncate=truncate, limit=1.0, store=store)
        return entries(store)

    assert count() == 1
    assert count(rows=ROWS[1:]) == 2
    assert count(length=101) == 3
    assert count(truncate=True) == 4
    assert count(chat=Chat(tokenizer, "plain", (end,))) == 5
    assert count(chat=Chat(tokenizer, tokenizer.chat_template + "{# v2 #}", (end,))) == 6
    assert count(chat=Chat(tokenizer, tokenizer.chat_template, (end, 7))) == 7
    tokenizer.backend_tokenizer.add_tokens(["answer"])
    assert count(chat=Chat(tokenizer, tokenizer.chat_template, (end,))) == 8


def test_a_stale_cache_is_noticed(chat, store):
    trees(ROWS, chat, 100, store=store)
    (file,) = (store.inside / "cache" / "tokens").glob("*/trees.npz")
    with np.load(file) as saved:
        arrays = dict(saved)
    arrays["ids"] = arrays["ids"] + 1  # as if another tokenizer had made it under the same key
    np.savez(file, **arrays)
    with pytest.raises(CheckError, match="not what the tokenizer and template make now"):
        trees(ROWS, chat, 100, store=store)


def test_real_pairs_on_a_real_tokenizer(real, stories):
    pairs = load(Data(path="hh-rlhf/test.jsonl.gz", on_bad_row="skip", limit=200), 0, real / "data")
    chat = Chat(stories, "plain", (1, 2))
    made, account = trees(pairs, chat, 512, limit=1.0)
    assert len(made) + sum(account.reasons.values()) == 200 and len(made) > 100
    by_id = {p.id: p for p in pairs}
    for tree in made:
        assert [chat.text(reply.ids) for reply in tree.replies] == [
            by_id[tree.id].chosen[0].content, by_id[tree.id].rejected[0].content,
        ]  # fmt: skip


def test_an_empty_reply_leaves_its_row_out(chat):
    """As a policy writes it that stops at once: one such row among its samples must not stop a stage."""
    made, account = trees([pair("hi", "yes", "no"), pair("ho", "yes", " \n"), demo("hu", "")], chat, 200)
    assert [tree.id for tree in made] == ["hi"]
    assert account.reasons == {"with an empty reply": 2}


def test_few_replies_that_the_tokenizer_cannot_spell_are_left_out_and_many_are_refused(monkeypatch):
    words = {"<unk>": 0, "</s>": 1, "hi": 2, "hello": 3, "User:": 4, "Assistant:": 5, "))": 6}
    made = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    known = PreTrainedTokenizerFast(tokenizer_object=made, unk_token="<unk>", eos_token="</s>", pad_token="</s>")
    chat, encode = Chat(known, "plain", (1,)), Chat.encode

    def unknown_there(self, pieces):
        """As of a tokenizer that knows `))` at the beginning of a text, and not after a blank."""
        return [[0 if i == 6 else i for i in part] for part in encode(self, pieces)]

    monkeypatch.setattr(Chat, "encode", unknown_there)
    rows = [demo("hi", "hello")] * 9 + [demo("hi", "))")]
    kept, account = trees(rows, chat, 100)
    assert len(kept) == 9
    assert str(account) == "of 10 rows: 1 with a reply that the tokenizer cannot spell"
    with pytest.raises(CheckError, match=r"11\.1% of the rows have a reply with pieces that the tokenizer does not"):
        trees(rows[1:], chat, 100)


def test_few_replies_that_the_template_rewrites_are_left_out_and_many_are_refused(tokenizer, end):
    """One odd reply among thousands that a policy wrote must not stop a stage; a template that is not made for any is
    not to be trained with."""
    template = tokenizer.chat_template.replace("{{ m['content'] }}", "{{ m['content'].split('</think>') | last }}")
    chat = Chat(tokenizer, template, (end,))
    rows = [demo("hi", "hello")] * 9 + [demo("ho", "so </think> 4")]
    kept, account = trees(rows, chat, 200)
    assert len(kept) == 9
    assert str(account) == "of 10 rows: 1 with a reply that the template does not write as it is"
    with pytest.raises(CheckError, match=r"1 of 9 rows: .* not write the reply's text as it is \(first: ho\)"):
        trees(rows[1:], chat, 200)
