import io
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from garment_transfer.bundle import STAGES, BackendError, Code, InputError
from garment_transfer.runtime import (
    Pair,
    Person,
    Pipeline,
    is_done,
    read_pairs,
    shard,
    transfer_pairs,
)


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "pairs.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_lists_as_spreadsheets_write_them(tmp_path, monkeypatch):
    due = [Pair(tmp_path / "a", tmp_path / "b", tmp_path / "c.png")]
    for text in (
        "Output;Note;Person;Garment_Owner\r\nc.png;red;a;b\r\n",
        "person\tgarment_owner\toutput\na\t b \tc.png\n",
        " person , garment_owner , output \n a , b , c.png \n",
    ):
        assert read_pairs(write(tmp_path, text)) == due
    monkeypatch.setattr("sys.stdin", io.StringIO("person,garment_owner,output\n/a,/b,/c.png\n"))
    assert read_pairs(Path("-")) == [Pair(Path("/a"), Path("/b"), Path("/c.png"))]


@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_read(tmp_path, mark):
    path = write(tmp_path, f'{mark}person,garment_owner,output\na, b,out/c.png\n\n/x,"y,z",d.png\n')
    assert read_pairs(path) == [
        Pair(tmp_path / "a", tmp_path / "b", tmp_path / "out" / "c.png"),
        Pair(Path("/x"), tmp_path / "y,z", tmp_path / "d.png"),
    ]


@pytest.mark.parametrize(
    ("text", "due"),
    [
        ("", r"has the header \(none\); expected person,garment_owner,output"),
        ("a,b,c.png\n", r"has the header a,b,c\.png; expected person,garment_owner,output"),
        ("person,garment_owner,output\n", r"lists no pairs; add a line"),
        ("person,garment_owner,output\na,b\n", r"line 2: .*expected a cell under each of"),
        ("person,garment_owner,output\na,,c.png\n", r"line 2: .*expected a cell under each of"),
        ("person,garment_owner,output\na,b,c.png,d\n", r"line 2: .*expected a cell under each of"),
        (
            "person,garment_owner,output\na,b,c.png\nd,e,c.png\n",
            r"line 3: the output c\.png is that of line 2 too; give each pair its own",
        ),
    ],
)
def test_bad_lists(tmp_path, text, due):
    with pytest.raises(InputError, match=rf"pairs\.csv.*{due}"):
        read_pairs(write(tmp_path, text))


def test_unreadable(tmp_path):
    with pytest.raises(
        InputError, match=r"none\.csv cannot be read.*No such file.*expected a UTF-8"
    ):
        read_pairs(tmp_path / "none.csv")
    (tmp_path / "bad.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match=r"bad\.csv cannot be read.*UTF-8"):
        read_pairs(tmp_path / "bad.csv")


@pytest.mark.parametrize("count", [1, 3, 7, 9])
def test_shards_are_the_list(count):
    pairs = [Pair(Path(f"p{i}"), Path("o"), Path(f"{i}.png")) for i in range(7)]
    shards = [shard(pairs, index, count) for index in range(count)]
    assert sorted((pair for part in shards for pair in part), key=pairs.index) == pairs
    assert max(map(len, shards)) - min(map(len, shards)) <= 1


@pytest.mark.parametrize(("index", "count"), [(4, 4), (-1, 4), (0, 0)])
def test_bad_shards(index, count):
    with pytest.raises(InputError, match=r"expected I/N with I from 0 to N-1"):
        shard([], index, count)


@pytest.fixture
def pairs(tmp_path, make_person, save_person) -> list[Pair]:
    """Seven pairs of people of different sizes."""
    sizes = [(64, 32), (128, 64), (100, 90), (96, 48)]
    people = [
        save_person(make_person(*size, seed=seed), tmp_path / f"person{seed}")
        for seed, size in enumerate(sizes)
    ]
    return [
        Pair(people[i % 4], people[(i + 1 + i // 4) % 4], tmp_path / f"{i}.png") for i in range(7)
    ]


def written(pair: Pair) -> np.ndarray:
    return np.array(Image.open(pair.output))


def alone(pipeline: Pipeline, pair: Pair) -> np.ndarray:
    return pipeline.transfer(Person.load(pair.person), Person.load(pair.garment_owner)).image


@pytest.mark.parametrize("batch", [1, 3, 16])
def test_a_batch_gives_what_single_transfers_give(pipeline, pairs, batch):
    outcomes = list(transfer_pairs(pipeline, pairs, batch=batch))
    assert [outcome.pair for outcome in outcomes] == pairs
    assert not any(outcome.error for outcome in outcomes)
    for pair in pairs:
        assert (written(pair) == alone(pipeline, pair)).all()


def test_a_failing_pair_costs_its_batch_nothing(pipeline, pairs, make_person, save_person):
    folder = pairs[0].output.parent
    bare = save_person(make_person(garment=(0, 0, 0, 0)), folder / "bare")
    broken = save_person(make_person(), folder / "broken")
    (broken / "image.png").write_bytes(b"no image")
    bad = {
        "wears no upper garment": Pair(pairs[0].person, bare, folder / "a.png"),
        "cannot be read as an image": Pair(broken, pairs[0].person, folder / "b.png"),
        "does not exist": Pair(folder / "nobody", broken, folder / "c.png"),
        "cannot be written": Pair(pairs[0].person, pairs[0].person, broken / "meta.json" / "d.png"),
    }
    mixed = [pairs[0], *bad.values(), *pairs[1:]]
    for batch in (3, 16):
        outcomes = list(transfer_pairs(pipeline, mixed, batch=batch))
        assert [outcome.pair for outcome in outcomes] == mixed
        for outcome, words in zip(outcomes[1:5], bad, strict=True):
            assert words in str(outcome.error)
            assert not outcome.pair.output.exists()
        for outcome in (outcomes[0], *outcomes[5:]):
            assert outcome.error is None
            assert (written(outcome.pair) == alone(pipeline, outcome.pair)).all()
            outcome.pair.output.unlink()


def test_an_empty_batch(pipeline, pairs):
    with pytest.raises(InputError) as error:
        next(transfer_pairs(pipeline, pairs, batch=0))
    assert error.value.code == Code.ARGUMENT_INVALID


class _OfOne:
    """An engine that was built for a batch of one, and fails on people with a white pixel."""

    def __init__(self, engine: Any) -> None:
        self.engine = engine
        self.signature = engine.signature

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        if len(next(iter(inputs.values()))) > 1:
            raise BackendError(Code.ENGINE_BATCH, "a batch beyond the engine's")
        if (inputs.get("person_image", np.zeros(1)) == 255).any():
            raise BackendError(Code.RUN_FAILED, "this pair cannot be run")
        return self.engine.run(inputs)


def test_a_batch_that_fails_is_run_pair_by_pair(pipeline, pairs, make_person, save_person):
    person = make_person()
    white = person.image.copy()
    white[0, 0] = 255
    folder = save_person(
        Person.from_arrays(white, person.parsing, person.densepose),
        pairs[0].output.parent / "white",
    )
    pairs[1] = Pair(folder, pairs[1].garment_owner, pairs[1].output)
    engines = {stage: _OfOne(pipeline._engines[stage]) for stage in STAGES}
    outcomes = list(transfer_pairs(Pipeline(pipeline.bundle, engines), pairs, batch=4))
    assert str(outcomes[1].error) == "this pair cannot be run"
    for outcome in (outcomes[0], *outcomes[2:]):
        assert outcome.error is None
        assert (written(outcome.pair) == alone(pipeline, outcome.pair)).all()


def test_no_more_than_three_batches_are_taken_ahead(pipeline, pairs):
    taken = 0

    def endless() -> Iterator[Pair]:
        nonlocal taken
        while True:
            taken += 1
            yield Pair(pairs[0].person, pairs[1].person, pairs[0].output.with_name(f"n{taken}.png"))

    outcomes = transfer_pairs(pipeline, endless(), batch=2)
    for seen in range(1, 12):
        assert next(outcomes).error is None
        assert taken <= seen + 3 * 2
    outcomes.close()


def test_done_means_newer_than_both_people(pairs):
    pair = pairs[0]
    assert not is_done(pair)
    Image.new("RGB", (1, 1)).save(pair.output)
    now = pair.output.stat().st_mtime
    for folder in (pair.person, pair.garment_owner):
        for file in folder.iterdir():
            os.utime(file, (now - 10, now - 10))
    assert is_done(pair)
    whole = pair.output.read_bytes()
    for cut in (b"", whole[:40]):
        pair.output.write_bytes(cut)
        assert not is_done(pair)
    pair.output.write_bytes(whole)
    # what is no part of a person may be newer
    (pair.person / "notes.txt").write_text("later")
    os.utime(pair.person / "notes.txt", (now + 10, now + 10))
    assert is_done(pair)
    for name in ("image.png", "parse.png", "densepose.png", "meta.json"):
        for folder in (pair.person, pair.garment_owner):
            os.utime(folder / name, (now + 1, now + 1))
            assert not is_done(pair)
            os.utime(folder / name, (now - 10, now - 10))
    shutil.rmtree(pair.garment_owner)
    assert not is_done(pair)
