"""Chat: how conversations become token ids for one model, and back.

A conversation is rendered by the chat template as one text and cut into pieces where an assistant's reply begins and
ends; pieces are tokenised apart. So the ids of a prompt always are the beginning of the ids of prompt and reply, and
the mask of a reply is exact, whatever the tokenizer would have merged across the border. A reply begins where the
template's generation prompt ends and ends with the stop token that the template writes after it, or, where it writes
none, with the model's own after the last reply.

Refused, because training on it goes silently wrong: a template that renders a prompt otherwise once a reply follows,
replies that are not found in the rendered text, generation marks that leave out part of a reply, doubled BOS, and stop
tokens within a reply. What is only read, as a reward model or a critic reads it, is never refused for a reply of which
the template makes something else: policies write anything, and a single `</think>` would end a run. Nor does such a
text speak for the template: where it spells a special token, it is read as text, or a reply could end the question
about it and give a judge's answer.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError

from align.errors import CheckError, DependencyError
from align.records import Message, Messages

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TEMPLATES = {
    "plain": (
        "{{ bos_token }}{% for m in messages %}{{ m['role'] | capitalize }}: {{ m['content'] | trim }}"
        "{% if m['role'] == 'assistant' %}{{ eos_token }}{% endif %}{{ '\n\n' }}{% endfor %}"
        "{% if add_generation_prompt %}Assistant:{% endif %}"
    ),
    "raw": "{{ bos_token }}{% for m in messages %}{{ m['content'] }}{% endfor %}",
}
"""Templates for base models that have none. `plain` writes `User: ...`, a blank line, `Assistant: ...`, and the stop
token after each reply. `raw` writes contents and nothing else, for tasks that are no chat: continue this text."""

# Templates that print today's date would render other tokens tomorrow. Llama's fall back to this very day.
DATE = "26 Jul 2024"
ANCHORS = ("\n", ".", "a")
CONTEXT = 64
GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")


class Rewritten(CheckError):
    """The template makes something else of a reply's text, as Qwen3's does of thoughts that do not end as it wants."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of the rendered text that is tokenised by itself."""

    text: str
    turn: int | None
    """The assistant's message that it is the reply of; None for all that lies between replies."""
    after: str
    """The end of the text before it, which decides whether a tokenizer that puts blanks before texts does so here."""
    stop: bool = False
    """Whether the model's stop id is to follow, because the template writes none."""


class Chat:
    """Token ids of prompts, replies and conversations for one tokenizer, template and set of stop ids."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, template: str, stop: Sequence[int]):
        """template: `plain`, `raw`, or jinja. stop: ids that end a reply, the first being the one to train."""
        self.tokenizer = tokenizer
        self.stop = tuple(stop)
        self.raw = template == "raw"
        self.template = TEMPLATES.get(template) or training_template(tokenizer, template)
        made = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
        special = sorted(made | set(tokenizer.all_special_tokens), key=len, reverse=True)
        ends = [re.escape(str(tokenizer.convert_ids_to_tokens(i))) for i in self.stop]
        self._special = re.compile("|".join(map(re.escape, special)) or r"(?!)")
        self._special_at_end = re.compile(rf"(?:{self._special.pattern})\Z")
        self._end = re.compile(rf"(?:\s|{self._special.pattern})*?(?:{'|'.join(ends)})")
        self._ended = re.compile(rf"(?:{'|'.join(ends)})\Z")
        self._short: dict[str, list[int]] = {}
        self._marked = GENERATION.search(self.template) is not None
        self._values: dict[str, Any] = {**tokenizer.special_tokens_map, "date_string": DATE}
        if template in TEMPLATES:
            bos = tokenizer.bos_token if tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id] else None
            self._values |= {"bos_token": bos or "", "eos_token": tokenizer.convert_ids_to_tokens(self.stop[0])}

    def prompt(self, messages: Messages) -> list[int]:
        """Ids of a prompt, up to where the assistant begins to speak, or goes on where the last message is its own."""
        messages = tuple(replace(message, content=self.plain(message.content)) for message in messages)
        if messages and messages[-1].role == "assistant":
            return self.prompt(messages[:-1]) + self.begun(messages[:-1], messages[-1].content)
        return [i for ids in self.encode(self.prompt_pieces(messages)) for i in ids]

    def begun(self, prompt: Messages, reply: str) -> list[int]:
        """Ids that follow `prompt(prompt)`: the reply without what ends one."""
        ids = self.heard(prompt, reply)
        while ids and ids[-1] in self.stop:
            ids = ids[:-1]
        return ids

    def further(self, text: str, before: str) -> list[int]:
        """Ids of a text as it goes on after another."""
        return self.encode([Piece(text, None, before[-CONTEXT:])])[0]

    def reply(self, prompt: Messages, reply: Messages) -> list[int]:
        """Ids that follow `prompt(prompt)`: the reply with its stop id."""
        pieces = self.pieces(prompt + reply)
        start = next(n for n, piece in enumerate(pieces) if piece.turn is not None and piece.turn >= len(prompt))
        return [i for ids in self.encode(pieces[start:]) for i in ids]

    def heard(self, prompt: Messages, reply: str) -> list[int]:
        """The same of a reply that is only read: as it stands where the template makes something else of it, or of one
        in the prompt. Raises CheckError where the template does so to any reply."""
        reply = self.plain(reply)
        try:
            return self.reply(prompt, (Message("assistant", reply),))
        except Rewritten:
            self.reply((Message("user", "a"),), (Message("assistant", "a"),))
            return [*self.further(reply.strip(), self._render(prompt, True)), self.stop[0]]

    def conversation(self, messages: Messages, supervised: Iterable[int] | None = None) -> tuple[list[int], list[bool]]:
        """Ids of a conversation up to its last reply, and which of them belong to supervised replies.

        supervised: indices of messages; None means every message of the assistant.
        """
        pieces = self.pieces(messages)
        turns = {p.turn for p in pieces} - {None} if supervised is None else set(supervised)
        ids = self.encode(pieces)
        mask = [piece.turn in turns for piece, part in zip(pieces, ids, strict=True) for _ in part]
        return [i for part in ids for i in part], mask

    def document(self, text: str) -> list[int]:
        """Ids of raw text: BOS if the tokenizer adds it by itself, the text, the stop id."""
        ids = self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        begin = self.tokenizer("a")["input_ids"][:1]
        return ([*begin] if begin == [self.tokenizer.bos_token_id] else []) + ids + [self.stop[0]]

    def text(self, ids: Sequence[int]) -> str:
        """The text of a reply that follows a prompt, without its stop id. Blanks at its ends are kept by `raw` only."""
        ids = [*ids]
        if ids and ids[-1] in self.stop:
            ids.pop()
        if not self.raw:
            return self.decode(ids).strip()
        anchor = ANCHORS[0] if self._inserts_blanks else ""
        return self.decode([*self._ids(anchor), *ids])[len(anchor) :]

    def spelled(self, ids: Sequence[int]) -> str:
        """Text of ids for people: blanks as they are in mid-text, special tokens spelled out."""
        anchor = ANCHORS[0] if self._inserts_blanks else ""
        return str(self.tokenizer.decode([*self._ids(anchor), *ids], clean_up_tokenization_spaces=False))[len(anchor) :]

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids, special tokens left out."""
        return str(self.tokenizer.decode([*ids], skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def plain(self, content: str) -> str:
        """A content that spells no special token: a blank stands in each, unless it is one character, such as a line
        break. `raw` leaves contents as they are."""
        if self.raw:
            return content
        return self._special.sub(lambda found: " ".join(filter(None, (found[0][:1], found[0][1:]))), content)

    def spells_special(self, messages: Messages) -> bool:
        """Whether a content spells a special token, which would be read as that token and break the turns."""
        return any(self._special.search(m.content) for m in messages)

    @cached_property
    def default_system(self) -> bool:
        """Whether the template writes a system message of its own where a conversation has none."""
        asked, ruled = Message("user", "QUESTION"), Message("system", "SYSTEM")
        try:
            before, found, _ = self._render((ruled, asked), True).partition("SYSTEM")
        except CheckError:  # a template that refuses system messages has none of its own
            return False
        text = self._render((asked,), True)
        return bool(found) and text.startswith(before) and not text[len(before) :].startswith("QUESTION")

    # From messages to pieces of text.

    def prompt_pieces(self, messages: Messages) -> list[Piece]:
        """Pieces of a prompt. Where it holds replies, they are cut out as they are in `pieces`, if they can be."""
        text = self._render(messages, True)
        try:
            return self._cut(messages, text, None)
        except Rewritten:
            return [Piece(text, None, "")]

    def pieces(self, messages: Messages) -> list[Piece]:
        """Pieces of a conversation, the last of which is its last reply."""
        last = max((i for i, m in enumerate(messages) if m.role == "assistant"), default=None)
        if last is None:
            raise CheckError("the conversation has no reply")
        messages = messages[: last + 1]
        text, marks = self._rendered(messages, False, self._marked)
        pieces = self._cut(messages, text, marks if self._marked else None)
        if pieces[-1].turn is None:  # what the template writes after the last reply's end
            pieces.pop()
        return pieces if self._ended.search(pieces[-1].text) else [*pieces[:-1], replace(pieces[-1], stop=True)]

    def _cut(self, messages: Messages, text: str, marks: list[tuple[int, int]] | None) -> list[Piece]:
        pieces, at = [], 0
        replies = [i for i, m in enumerate(messages) if m.role == "assistant"]
        for i in replies:
            begin = len(prompt := self._render(messages[:i], True))
            if not text.startswith(prompt) or begin < at:
                raise CheckError("the template renders the prompt otherwise when a reply follows")
            end = self._end_of_reply(text, begin, messages[i].content)
            if marks is not None and not _covered(begin, end, marks):
                raise CheckError("the template's generation marks leave out part of a reply or its end token")
            pieces += [Piece(text[at:begin], None, text[:at][-CONTEXT:]), Piece(text[begin:end], i, prompt[-CONTEXT:])]
            at = end
        return [*pieces, Piece(text[at:], None, text[:at][-CONTEXT:])] if at < len(text) else pieces

    def _end_of_reply(self, text: str, begin: int, content: str) -> int:
        """Where the reply that begins at `begin` ends, its stop token included if the template writes one."""
        content = content if self.raw else content.strip()
        first = at = text.find(content, begin)
        if first < 0 or not content:
            raise Rewritten("the template does not write the reply's text as it is")
        while at >= 0:
            if ended := self._end.match(text, at + len(content)):
                return ended.end()
            at = text.find(content, at + 1)
        return first + len(content)

    def _render(self, messages: Messages, prompt: bool) -> str:
        return self._rendered(messages, prompt, False)[0]

    def _rendered(self, messages: Messages, prompt: bool, marks: bool) -> tuple[str, list[tuple[int, int]]]:
        """The text of messages, with the generation prompt or without, and the character spans of generation marks."""
        # Not through the tokenizer, which refuses an empty prompt: pairs of bare texts have one.
        try:
            texts, spans = _renderer()(
                [[m.row() for m in messages]], chat_template=self.template, add_generation_prompt=prompt,
                return_assistant_tokens_mask=marks, **self._values,
            )  # fmt: skip
        except TemplateError as error:
            raise CheckError(f"the chat template refuses the messages: {error}") from None
        return texts[0], spans[0] if marks else []

    # From pieces of text to ids.

    def encode(self, pieces: Sequence[Piece]) -> list[list[int]]:
        """Ids of each piece, as the tokenizer would read it after the text before it."""
        anchors = [self._anchor(piece) for piece in pieces]
        texts = [anchor + piece.text for anchor, piece in zip(anchors, pieces, strict=True)]
        found = self.tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"] if texts else []
        made = []
        for piece, anchor, ids in zip(pieces, anchors, found, strict=True):
            start = self._ids(anchor)
            apart = ids[len(start) :] if ids[: len(start)] == start else self._after_another_anchor(piece.text)
            made.append([*apart, self.stop[0]] if piece.stop else apart)
        return made

    def _anchor(self, piece: Piece) -> str:
        """A text to put before a piece, whose ids are taken off again.

        Tokenizers of sentencepiece's kind put a blank before every text, also one that goes on in mid-sentence. After
        an anchor they don't, and after a special token they do what they do in a whole text.
        """
        if not self._inserts_blanks or not piece.after or not piece.text:
            return ""
        special = self._special_at_end.search(piece.after)
        return special.group() if special else ANCHORS[0]

    def _after_another_anchor(self, text: str) -> list[int]:
        for anchor in ANCHORS[1:]:
            start, ids = self._ids(anchor), self._ids(anchor + text)
            if ids[: len(start)] == start:
                return ids[len(start) :]
        raise CheckError("the tokenizer merges the border between a prompt and its reply")

    @cached_property
    def _inserts_blanks(self) -> bool:
        return self._ids("\na")[len(self._ids("\n")) :] != self._ids("a")

    def _ids(self, text: str) -> list[int]:
        if text in self._short:
            return self._short[text]
        ids = self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        if len(text) <= CONTEXT:
            self._short[text] = ids
        return ids


def _covered(begin: int, end: int, spans: list[tuple[int, int]]) -> bool:
    """Whether spans, in order, cover [begin, end) without a gap."""
    for low, high in spans:
        if low <= begin < high:
            begin = high
    return begin >= end


def _renderer() -> Callable[..., Any]:
    """transformers' rendering of chat templates: (conversations, options) -> (texts, spans of generation marks).

    The one door to it.
    """
    try:
        from transformers.utils.chat_template_utils import render_jinja_template
    except ImportError as error:
        raise DependencyError(
            f"transformers.utils.chat_template_utils.render_jinja_template is not there ({error}); "
            "align is tested with transformers 5.23"
        ) from None
    return render_jinja_template


def training_template(tokenizer: PreTrainedTokenizerBase, template: str) -> str:
    """TRL's version of the template if it knows the family: it keeps earlier turns as they were. Otherwise itself.

    The one door to TRL's templates.
    """
    try:
        from trl.chat_template_utils import get_training_chat_template
    except ImportError as error:
        raise DependencyError(
            f"trl.chat_template_utils.get_training_chat_template is not there ({error}); align is tested with trl 1.16"
        ) from None
    asked = copy.copy(tokenizer)
    asked.chat_template = template
    try:
        return get_training_chat_template(asked) or template
    except (ValueError, TypeError, TemplateError):  # not a family that TRL knows, or one that its probe can't render
        return template
