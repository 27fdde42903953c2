from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest
from pydantic import BaseModel, ConfigDict, ValidationError

from align.config import Data, Model
from align.data.convert import convert
from align.data.fields import DataField, Part
from align.data.files import write
from align.data.load import load
from align.data.mix import mixture, read
from align.errors import DataError
from align.machine import Machine
from align.records import Demonstration, Message, Preference, Prompt
from align.stage import Context, RecordsRef, Stage
from align.store import Artifact, Store


class Field(BaseModel):
    model_config = ConfigDict(extra="forbid")

    data: DataField


def parts(*given: dict) -> tuple[Part, ...]:
    return tuple(Part.model_validate({"from": f"${i}", **part}) for i, part in enumerate(given))


def counts(sizes: list[int], *given: dict, seed: int = 0) -> dict[int, int]:
    rows = [[(source, i) for i in range(size)] for source, size in enumerate(sizes)]
    return dict(Counter(source for source, _ in mixture(rows, parts(*given), seed)))


def test_without_amounts_everything_is_taken():
    assert counts([3, 5], {}, {}) == {0: 3, 1: 5}


def test_weights_make_the_largest_mixture_that_repeats_nothing():
    # 100 rows at weight 3 would allow 300 at weight 1; the 20 there are allow 60 and 20.
    assert counts([100, 20], {"weight": 3}, {"weight": 1}) == {0: 60, 1: 20}
    assert counts([10, 1000], {"weight": 0.5}, {"weight": 0.5}) == {0: 10, 1: 10}


def test_counts_above_what_there_is_are_whole_passes_first():
    made = mixture([["a", "b", "c"], ["z"]], parts({"count": 7}, {}), 0)
    assert len(made) == 8 and sorted(Counter(made).values()) == [1, 2, 2, 3]


def test_a_mixture_is_shuffled_by_the_seed():
    rows = [list(range(50)), list(range(50, 60))]
    first = mixture(rows, parts({}, {}), 0)
    assert first == mixture(rows, parts({}, {}), 0) != mixture(rows, parts({}, {}), 1)
    assert first != sorted(first) == list(range(60))


@pytest.mark.parametrize("value", ["$a", ["$a", "$b"], [{"from": "$a", "count": 3}, "$b"]])
def test_a_data_field_names_one_dataset_or_several(value):
    made = Field.model_validate({"data": value})
    assert Field.model_validate_json(made.model_dump_json(by_alias=True)) == made


@pytest.mark.parametrize(
    ("value", "why"),
    [("a", "reference to records"), ([], "at least one"), ([{"from": "$a", "weight": 1}, "$b"], "every part"),
     ([{"from": "$a", "weight": 1, "count": 2}], "exclude"), ([{"from": "$a", "wieght": 1}], "wieght")],
)  # fmt: skip
def test_data_fields_that_make_no_sense(value, why):
    with pytest.raises(ValidationError, match=why) as error:
        Field.model_validate({"data": value})
    assert error.value.error_count() == 1, "one mistake is one message, not one for each alternative"


def test_references_of_a_mixture_have_the_paths_of_the_recipe():
    class Reads(Stage):
        name = "reads"
        makes = "records"
        data: DataField

        def run(self, ctx):
            return {}

    stage = Reads.model_validate({"data": ["$a", {"from": "$b"}]})
    assert [(path, ref.name) for path, ref in stage.references()] == [("data.0", "a"), ("data.1.from", "b")]


ASK, YES, NO = (Message("user", "q"),), (Message("assistant", "yes"),), (Message("assistant", "no"),)


@dataclass
class Told:
    notes: list[str]

    def __call__(self, event: str, **values) -> None:
        self.notes.append(values["text"])


@pytest.fixture
def context(tmp_path: Path):
    """A context with an artifact `$pairs`, a file `$file` with a bad row, and a model `$model`."""
    folder = tmp_path / "artifact"
    write([Preference("p", ASK, YES, NO)], folder / "records.jsonl")
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a", "completion": "b"}\n{"prompt": "a"}\n')
    inputs = {
        "pairs": Artifact("records", "k", folder, {}), "model": Model(path="x"),
        "file": Data(path="rows.jsonl", on_bad_row="skip"),
    }  # fmt: skip
    return Context(
        stage="sft", type="sft", key="k", seed=0, inputs=inputs, keys={}, store=Store(tmp_path / "store"),
        machine=Machine(), work=tmp_path / "work", out=tmp_path / "out", emit=Told([]), base=tmp_path,
    )  # fmt: skip


def test_reading_converts_notes_what_was_left_out_and_keeps_it(context):
    made = read(context, (RecordsRef("pairs"), RecordsRef("file")), Demonstration)
    assert {record.messages[-1].content for record in made} == {"yes", "b"}
    assert context.emit.notes == ["$file: left out 1 bad rows"]  # as in a check, which leaves nothing
    assert not context.work.exists() and not context.out.exists()
    context.out.mkdir()
    read(context, RecordsRef("file"), Demonstration)
    assert context.emit.notes[1:] == ["$file: left out 1 bad rows; the artifact has them in quarantine/file.jsonl"]
    assert (context.out / "quarantine" / "file.jsonl").read_text().count("\n") == 1
    assert [r.prompt for r in read(context, RecordsRef("pairs"), Prompt)] == [ASK]


def test_reading_the_wrong_kind_names_the_stage_and_the_dataset(context):
    with pytest.raises(DataError, match=r"stages\.sft: \$file: needs Preference records, found a Demonstration"):
        read(context, RecordsRef("file"), Preference)
    with pytest.raises(DataError, match=r"\$model is a model"):
        read(context, RecordsRef("model"), Prompt)


def test_columns_that_no_format_used_are_named_where_the_kind_is_wrong(tmp_path):
    (tmp_path / "pairs.jsonl").write_text('{"prompt": "a", "good": "b", "bad": "c"}\n')
    records = load(Data(path="pairs.jsonl"), 0, tmp_path)
    with pytest.raises(DataError, match=r"found a Prompt\. Not used of its columns: good, bad; `columns:` says what"):
        convert(records, Preference)
