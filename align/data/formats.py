"""Row formats: how the columns of a row become records.

A format is recognised by its columns (`recognise`), or named by `format:`. Each carries an example row, which is its
documentation, its test, and what `--smoke` feeds. A plugin adds one:

    @row_format("dialogsum", needs=("dialogue", "summary"), makes=Demonstration, example={...})
    def dialogsum(row, options):
        yield demonstration([user(row["dialogue"]), assistant(row["summary"])], row)
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from align.data.cells import (
    SPEAKERS,
    Columns,
    assistant,
    conversation,
    demonstration,
    number,
    preference,
    prompt,
    rest,
    system,
    text,
    text_id,
    turns,
    user,
)
from align.errors import DataError, suggestion
from align.records import (
    RECORDS,
    Demonstration,
    Message,
    Messages,
    Preference,
    Prompt,
    Rated,
    Record,
    Sample,
    Text,
    from_row,
    prompt_id,
)

Options = Mapping[str, Any]
Reader = Callable[[Columns, Options], Iterable[Record]]


@dataclass(frozen=True, slots=True)
class Format:
    """One way of writing records as columns."""

    name: str
    doc: str
    needs: tuple[str, ...]
    """Columns that every row has."""
    makes: type[Record]
    read: Reader
    example: dict[str, Any]
    fits: Callable[[Columns], bool]
    """Whether a row that has all the needed columns is of this format; looks at values, never at other rows."""


FORMATS: dict[str, Format] = {}
"""Every format, the more specific before the more general: the first that fits is taken."""


def row_format(
    name: str, *, needs: tuple[str, ...], makes: type[Record], example: dict[str, Any],
    fits: Callable[[Columns], bool] = lambda row: True,
) -> Callable[[Reader], Reader]:  # fmt: skip
    """Registers a function `(columns, options) -> records` as a row format. Its docstring is the documentation."""

    def register(read: Reader) -> Reader:
        FORMATS[name] = Format(name, " ".join((read.__doc__ or "").split()), needs, makes, read, example, fits)
        return read

    return register


def named(name: str) -> Format:
    """The format of that name."""
    if name not in FORMATS:
        raise DataError(f"format: there is no row format {name!r}.{suggestion(name, FORMATS)}")
    return FORMATS[name]


def recognise(row: Columns) -> Format | None:
    """The first format that the columns of a row fit."""
    return next((f for f in FORMATS.values() if row.keys() >= set(f.needs) and f.fits(row)), None)


def read(row: Columns, form: Format, options: Options) -> list[Record]:
    """The records of one row. Raises DataError saying which column is wrong."""
    missing = [name for name in form.needs if name not in row]
    if missing:
        other = [name for name in row if name not in form.needs]
        hint = f" Map it: columns: {{{missing[0]}: {other[0]}}}" if other else ""
        here = f"columns here: {', '.join(row)}"
        raise DataError(f"not a {form.makes.__name__}: {missing[0]!r} is missing ({here}).{hint}")
    return list(form.read(row, options))


# The formats, specific before general.

TURN = re.compile(r"\n\n(Human|Assistant):[ \t]*")


@row_format("records", needs=("kind",), makes=Record, fits=lambda row: row["kind"] in RECORDS,
            example={"kind": "prompt", "id": "1", "prompt": [{"role": "user", "content": "Why?"}]})  # fmt: skip
def records(row: Columns, options: Options) -> Iterator[Record]:
    """What align itself writes."""
    yield from_row(row)


def transcript(value: Any) -> Messages:
    """The turns of an HH transcript."""
    pieces = TURN.split(text(value).rstrip())
    if pieces[0].strip() or len(pieces) < 3:
        raise DataError(r"not a transcript: it must begin with '\n\nHuman:'")
    roles = {"Human": "user", "Assistant": "assistant"}
    return tuple(Message(roles[who], said.strip()) for who, said in zip(pieces[1::2], pieces[2::2], strict=True))


@row_format("hh", needs=("chosen", "rejected"), makes=Preference,
            fits=lambda row: isinstance(row["chosen"], str) and row["chosen"].startswith("\n\nHuman:"),
            example={"chosen": "\n\nHuman: Hi\n\nAssistant: Hello! How can I help?",
                     "rejected": "\n\nHuman: Hi\n\nAssistant: Go away."})  # fmt: skip
def hh(row: Columns, options: Options) -> Iterator[Record]:
    """Two transcripts with `\\n\\nHuman:` and `\\n\\nAssistant:`, split at the last common turn of the assistant."""
    better, worse = text(row["chosen"]), text(row["rejected"])
    split = better[: _common(better, worse)].rfind("\n\nAssistant:")
    if split < 0:
        raise DataError("not a Preference: the transcripts share no turn before an assistant's")
    replies = [piece[split + len("\n\nAssistant:") :] for piece in (better, worse)]
    if any(map(TURN.search, replies)):
        raise DataError("not a Preference: the transcripts part before the last turn of the assistant")
    context = transcript(better[:split])
    chosen, rejected = ((assistant(reply.strip()),) for reply in replies)
    yield preference(context, chosen, rejected, rest(row, "chosen", "rejected"))


@row_format("hh_transcript", needs=("transcript",), makes=Demonstration,
            fits=lambda row: isinstance(row["transcript"], str) and row["transcript"].startswith("\n\nHuman:"),
            example={"transcript": "\n\nHuman: Hi\n\nAssistant: Hello! How can I help?"})  # fmt: skip
def hh_transcript(row: Columns, options: Options) -> Iterator[Record]:
    """One transcript, as in the red-team attempts of HH; as a Prompt it ends before the last reply."""
    yield demonstration(transcript(row["transcript"]), rest(row, "transcript"))


@row_format("llmbar", needs=("input", "output_1", "output_2", "label"), makes=Preference,
            example={"input": "Name a colour.", "output_1": "Dog.", "output_2": "Red.", "label": 2})  # fmt: skip
def llmbar(row: Columns, options: Options) -> Iterator[Preference]:
    """LLMBar (arXiv:2310.07641): two outputs for an input; `label`, 1 or 2, says which is better."""
    if row["label"] not in (1, 2):
        raise DataError(f"'label' is {row['label']!r}; it is 1 or 2, the better output")
    better, worse = (row[f"output_{i}"] for i in (row["label"], 3 - row["label"]))
    extra = rest(row, "input", "output_1", "output_2", "label")
    yield preference((user(row["input"]),), (assistant(better),), (assistant(worse),), extra)


@row_format("pairs", needs=("chosen", "rejected"), makes=Preference,
            example={"prompt": "Name a colour.", "chosen": "Red.", "rejected": "Dog."})  # fmt: skip
def pairs(row: Columns, options: Options) -> Iterator[Record]:
    """Two replies as text or messages; the prompt as text or messages (`prompt`, or ShareGPT's `conversations`), or
    implied: the turns with which both begin. `margin`, or the difference of `score_chosen` and `score_rejected`, is
    the margin; `label` and `weight` are read too."""
    chosen, rejected = (conversation(row[name], "assistant") for name in ("chosen", "rejected"))
    context: Messages = ()
    if chosen and chosen[0].role != "assistant":  # whole conversations, whose beginning a prompt column only repeats
        shared = _common(chosen, rejected)
        while shared and chosen[shared - 1].role == "assistant":
            shared -= 1
        context, chosen, rejected = chosen[:shared], chosen[shared:], rejected[shared:]
    elif given := row.get("prompt", row.get("conversations")):
        context = conversation(given, "user")
    if not context or context[0].role != "system":
        context = system(row) + context
    numbers = {name: number(row[name], name) for name in PAIR_NUMBERS if name in row}
    if {"score_chosen", "score_rejected"} <= numbers.keys():
        numbers.setdefault("margin", numbers["score_chosen"] - numbers["score_rejected"])
    extra = rest(row, "prompt", "conversations", "system", "chosen", "rejected", *PAIR_NUMBERS)
    values = {name: numbers[name] for name in ("margin", "label", "weight") if name in numbers}
    yield preference(context, chosen, rejected, extra, **values)


PAIR_NUMBERS = ("margin", "label", "weight", "score_chosen", "score_rejected")


def _common(a: Sequence[Any], b: Sequence[Any]) -> int:
    """How many items two sequences have in common at their beginning."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


@row_format("ratings", needs=("instruction", "completions"), makes=Preference,
            fits=lambda row: isinstance(row["completions"], list),
            example={"instruction": "Name a colour.", "completions": [
                {"response": "Red.", "overall_score": 8.0}, {"response": "Dog.", "overall_score": 2.0}]})  # fmt: skip
def ratings(row: Columns, options: Options) -> Iterator[Record]:
    """UltraFeedback: several rated replies to an instruction. The best and the worst make a pair, their distance is
    the margin. `options: {score: ...}` names another score than `overall_score`."""
    name = str(options.get("score", "overall_score"))
    scored = [(number(one.get(name), name), text(one.get("response"))) for one in row["completions"]]
    if len(scored) < 2:
        raise DataError("not a Preference: fewer than two completions")
    best, worst = max(scored, key=lambda s: s[0]), min(scored, key=lambda s: s[0])
    if best[0] == worst[0]:
        raise DataError(f"not a Preference: all completions have the same {name!r}")
    yield preference((user(row["instruction"]),), (assistant(best[1]),), (assistant(worst[1]),),
                     rest(row, "instruction", "completions"), margin=best[0] - worst[0])  # fmt: skip


@row_format("ranked", needs=("prompt",), makes=Preference,
            fits=lambda row: isinstance(row["prompt"], dict) and "replies" in row["prompt"],
            example={"message_tree_id": "1", "prompt": {"text": "Name a colour.", "role": "prompter", "lang": "en",
                "replies": [{"text": "Red.", "role": "assistant", "rank": 0, "replies": []},
                            {"text": "Dog.", "role": "assistant", "rank": 1, "replies": []}]}})  # fmt: skip
def ranked(row: Columns, options: Options) -> Iterator[Record]:
    """OpenAssistant trees (arXiv:2304.07327): wherever a turn has two ranked replies or more, the best and the worst
    make a pair, or with `options: {pairs: all}` every two of different rank. The margin is the difference of ranks;
    `lang`, `turn` (the assistant's, from 1) and `replies` (that were ranked) are columns to group by."""
    every, extra = options.get("pairs", "extremes"), rest(row, "prompt")
    if every not in ("extremes", "all"):
        raise DataError(f"options: pairs is {every!r}; it is 'extremes' or 'all'")

    def walk(node: Mapping[str, Any], before: Messages) -> Iterator[Record]:
        context = (*before, Message(SPEAKERS.get(str(node["role"]), ""), text(node["text"])))
        turn = {"lang": node.get("lang"), "turn": sum(message.role == "assistant" for message in context) + 1}
        replies = sorted(filter(_is_ranked, node.get("replies") or ()), key=lambda reply: reply["rank"])
        compared = replies if every == "all" else [*replies[:1], *replies[1:][-1:]]
        for better, worse in combinations(compared, 2):
            if margin := float(worse["rank"] - better["rank"]):
                chosen, rejected = ((assistant(reply["text"]),) for reply in (better, worse))
                yield preference(context, chosen, rejected, extra | turn | {"replies": len(replies)}, margin=margin)
        for reply in node.get("replies") or ():
            yield from walk(reply, context)

    yield from walk(row["prompt"], ())


def _is_ranked(node: Mapping[str, Any]) -> bool:
    """Whether people ranked a reply, and did not take it back."""
    return node["role"] == "assistant" and node.get("rank") is not None and not node.get("deleted")


@row_format("self_instruct", needs=("instruction", "instances"), makes=Demonstration,
            example={"instruction": "Translate to French.", "instances": [{"input": "a", "output": "un"}]})  # fmt: skip
def self_instruct(row: Columns, options: Options) -> Iterator[Record]:
    """An instruction with `instances` of `input` and `output`: one Demonstration each."""
    for one in row["instances"]:
        yield from alpaca({"instruction": row["instruction"], **one, **rest(row, "instruction", "instances")}, options)


@row_format("alpaca", needs=("instruction", "output"), makes=Demonstration,
            example={"instruction": "Translate to French.", "input": "cat", "output": "chat"})  # fmt: skip
def alpaca(row: Columns, options: Options) -> Iterator[Record]:
    """`instruction`, optional `input` (joined by a blank line) and `output`; optional `system`."""
    asked = "\n\n".join(text(row[k]) for k in ("instruction", "input") if row.get(k))
    turns = (*system(row), user(asked), assistant(row["output"]))
    yield demonstration(turns, rest(row, "instruction", "input", "output", "system"))


@row_format("sharegpt", needs=("conversations",), makes=Demonstration,
            example={"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hi!"}]})  # fmt: skip
def sharegpt(row: Columns, options: Options) -> Iterator[Record]:
    """`conversations` with `from` (human, gpt, system, ...) and `value`; optional `system`."""
    yield demonstration(system(row) + turns(row["conversations"]), rest(row, "conversations", "system"))


def _labelled(row: Columns) -> bool:
    replied = "messages" in row or {"prompt", "completion"} <= row.keys()
    return replied and isinstance(row["label"], (bool, int, float))


@row_format("unpaired", needs=("label",), makes=Rated, fits=_labelled,
            example={"prompt": "Name a colour.", "completion": "Red.", "label": True})  # fmt: skip
def unpaired(row: Columns, options: Options) -> Iterator[Record]:
    """One reply with a `label`: a thumb (true, false) or a score; `messages`, or `prompt` and `completion`."""
    if "messages" in row:
        said = turns(row["messages"])
        context, reply = said[:-1], said[-1:]
    elif {"prompt", "completion"} <= row.keys():
        context, reply = conversation(row["prompt"], "user"), conversation(row["completion"], "assistant")
    else:
        raise DataError("not a Rated: needs 'messages', or 'prompt' and 'completion', beside 'label'")
    if not reply or reply[-1].role != "assistant":
        raise DataError("not a Rated: it must end with an assistant's message")
    extra = rest(row, "messages", "prompt", "completion", "label")
    yield Rated(prompt_id(context), context, reply, number(row["label"], "label"), extra)


@row_format("xstest", needs=("prompt", "completion", "final_label"), makes=Rated,
            example={"prompt": "How do I kill weeds?", "completion": "I cannot help.", "final_label": "2_full_refusal"}
            )  # fmt: skip
def xstest(row: Columns, options: Options) -> Iterator[Rated]:
    """XSTest (arXiv:2308.01263): completions as people labelled them; the score is 1 for a refusal, full or partial,
    and 0 for compliance."""
    labels = {"1_full_compliance": 0.0, "2_full_refusal": 1.0, "3_partial_refusal": 1.0}
    if row["final_label"] not in labels:
        raise DataError(f"'final_label' is {row['final_label']!r}; labels are {', '.join(labels)}")
    asked = (user(row["prompt"]),)
    yield Rated(prompt_id(asked), asked, (assistant(row["completion"]),), labels[row["final_label"]],
                rest(row, "prompt", "completion"))  # fmt: skip


@row_format("messages", needs=("messages",), makes=Demonstration,
            example={"messages": [
                {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]})  # fmt: skip
def chat_messages(row: Columns, options: Options) -> Iterator[Record]:
    """`messages` with `role` and `content`."""
    yield demonstration(turns(row["messages"]), rest(row, "messages"))


@row_format("prompt_completion", needs=("prompt", "completion"), makes=Demonstration,
            example={"prompt": "Name a colour.", "completion": "Red."})  # fmt: skip
def prompt_completion(row: Columns, options: Options) -> Iterator[Record]:
    """`prompt` and `completion` as text or messages; only the completion is supervised."""
    context, reply = conversation(row["prompt"], "user"), conversation(row["completion"], "assistant")
    supervised = tuple(len(context) + i for i, m in enumerate(reply) if m.role == "assistant")
    if not supervised:
        raise DataError("not a Demonstration: 'completion' has no assistant's message")
    yield demonstration(context + reply, rest(row, "prompt", "completion"), supervised)


@row_format("ready_reply", needs=("prompt", "reply"), makes=Sample,
            example={"prompt": "Name a colour.", "reply": "Red.", "policy": "gpt-4"})  # fmt: skip
def ready_reply(row: Columns, options: Options) -> Iterator[Record]:
    """`prompt` as text or messages and `reply` as text, written by anybody; optional `policy`, `index` of several
    replies to one prompt, `tokens`, and `finish` (stop, length)."""
    asked = conversation(row["prompt"], "user")
    known = {name: row[name] for name in ("index", "finish", "tokens") if row.get(name) is not None}
    yield Sample(
        str(row.get("id") or prompt_id(asked)), asked, text(row["reply"]), str(row.get("policy") or ""), **known,
        extra=rest(row, "prompt", "reply", "id", "policy", *known),
    )  # fmt: skip


@row_format("question_answer", needs=("question", "answer"), makes=Demonstration,
            example={"question": "What is 2 + 3?", "answer": "2 + 3 = 5\n#### 5"})  # fmt: skip
def question_answer(row: Columns, options: Options) -> Iterator[Record]:
    """`question` and `answer`, as in GSM8K."""
    yield demonstration((user(row["question"]), assistant(row["answer"])), rest(row, "question", "answer"))


@row_format("prompt", needs=("prompt",), makes=Prompt, fits=lambda row: not isinstance(row["prompt"], dict),
            example={"prompt": "Why is the sky blue?"})  # fmt: skip
def prompts(row: Columns, options: Options) -> Iterator[Record]:
    """`prompt` as text or messages."""
    yield prompt(conversation(row["prompt"], "user"), rest(row, "prompt"))


@row_format("text", needs=("text",), makes=Text, example={"text": "Once upon a time there was a cat. It slept."})
def plain(row: Columns, options: Options) -> Iterator[Record]:
    """`text`: raw text, a line of a .txt file, or a JSON string. With `prompt_words: n` the first n words become a
    user's message and the rest, its first blank included, the reply."""
    content, words = text(row["text"]), options.get("prompt_words")
    if not content.strip():
        raise DataError("not a Text: it is empty")
    if words is None:
        yield Text(text_id(content), content, rest(row, "text"))
        return
    ends = [m.end() for m in re.finditer(r"\S+", content)]
    if len(ends) <= words:
        raise DataError(f"not a Demonstration: only {len(ends)} words, and prompt_words is {words}")
    asked, reply = content[: ends[words - 1]], content[ends[words - 1] :].rstrip()
    yield demonstration((user(asked), assistant(reply)), rest(row, "text"))
