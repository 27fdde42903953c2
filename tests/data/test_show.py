from align.data.chat import Chat
from align.data.show import Span, shown
from align.data.tokens import trees
from align.records import Demonstration, Message, Preference, Text

TURNS = tuple(
    Message(role, text) for role, text in [("user", "hi"), ("assistant", "yes"), ("user", "so"), ("assistant", "no")]
)


def test_a_conversation_is_cut_into_prompt_supervised_and_ignored(tokenizer):
    chat = Chat(tokenizer, "plain", (tokenizer.eos_token_id,))
    (row,) = shown(trees([Demonstration("d", TURNS)], chat, 100)[0], chat)
    assert row.prompt == Span("<s>User: hi\n\nAssistant:", "prompt", 21)
    assert row.replies == ((
        Span(" yes</s>", "supervised", 5), Span("\n\nUser: so\n\nAssistant:", "ignored", 22),
        Span(" no</s>", "supervised", 4),
    ),)  # fmt: skip
    assert row.tokens == 52


def test_both_replies_of_a_pair_are_shown_with_its_numbers(tokenizer):
    chat = Chat(tokenizer, "raw", (tokenizer.eos_token_id,))
    (row,) = shown(trees([Preference("p", TURNS[:1], TURNS[1:2], TURNS[3:])], chat, 100)[0], chat)
    assert [span.text for (span,) in row.replies] == ["yes</s>", "no</s>"] and row.numbers["weight"] == 1.0


def test_the_first_token_of_raw_text_is_predicted_by_nothing(stories):
    chat = Chat(stories, "raw", (1, 2))
    (row,) = shown(trees([Text("t", "Once upon a time")], chat, 100)[0], chat)
    assert row.replies == ((Span("<s>", "ignored", 1), Span(" Once upon a time<s>", "supervised", 5)),)
