"""Replies that a token limit cut are marked, get no stop id, and are nobody's demonstration."""

import pytest

from align.data.chat import Chat
from align.data.convert import convert
from align.data.tokens import trees
from align.errors import DataError
from align.records import Demonstration, Message, Preference, from_row


def pair(*unfinished: str) -> Preference:
    def said(text: str) -> tuple[Message, ...]:
        return (Message("assistant", text),)

    return Preference("a", (Message("user", "Once"),), said(" upon a time"), said(" I sat"), unfinished=unfinished)


@pytest.mark.parametrize("template", ["raw", "plain", "chatml"])
def test_no_stop_follows_a_reply_that_was_cut(tokenizer, template):
    template = tokenizer.chat_template if template == "chatml" else template
    stop = tokenizer.convert_tokens_to_ids("<|im_end|>")
    chat = Chat(tokenizer, template, [stop])
    (whole,), _ = trees([pair()], chat, 64)
    (cut,), _ = trees([pair("chosen")], chat, 64)
    assert [reply.ids[-1] == stop for reply in whole.replies] == [True, True]
    assert [reply.ids[-1] == stop for reply in cut.replies] == [False, True]
    assert cut.replies[0].ids.tolist() == whole.replies[0].ids[:-1].tolist()


def test_the_mark_survives_the_disk_and_bars_imitation():
    assert from_row(pair("chosen").row()) == pair("chosen")
    assert convert([pair("rejected")], Demonstration)
    with pytest.raises(DataError, match="cut at a token limit"):
        convert([pair("chosen")], Demonstration)
