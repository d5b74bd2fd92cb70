"""Local files as a corpus: formats, splits, streaming and bad input (rows T4, T6, T7)."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trainer.data import files, streams
from trainer.data.documents import Document
from trainer.data.errors import DataError
from trainer.data.files import FileCorpus, open_files
from trainer.data.rows import expanded_bytes
from trainer.data.source import DataSource

UNTIMED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
TEXT = "".join(f"line {number} of a text that is long enough, ü\n" for number in range(3000))


def _documents(source: DataSource) -> list[Document]:
    return list(open_files(source).documents())


def _joined(source: DataSource) -> str:
    return b"".join(d.data for d in _documents(source)).decode()


def _zstd(data: bytes) -> bytes:
    return pyarrow.Codec("zstd").compress(data, asbytes=True)


@pytest.mark.parametrize(
    ("ending", "pack"),
    [
        ("", bytes),
        (".gz", gzip.compress),
        (".xz", lzma.compress),
        (".bz2", bz2.compress),
        (".zst", _zstd),
    ],
)
def test_text_is_the_same_however_it_is_compressed(tmp_path: Path, ending: str, pack) -> None:
    path = tmp_path / f"corpus.txt{ending}"
    path.write_bytes(pack(TEXT.encode()))
    assert _joined(DataSource(corpus=str(path))) == TEXT


@pytest.mark.parametrize("ending", ["", ".gz"])
def test_rows_of_json_lines_are_documents(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"corpus.jsonl{ending}"
    rows = [{"id": i, "body": f"document {i}\nsecond line"} for i in range(50)]
    data = "\n".join(json.dumps(row) for row in rows).encode()
    path.write_bytes(gzip.compress(data) if ending else data)
    documents = _documents(DataSource(corpus=str(path), text_column="body"))
    assert [d.data.decode() for d in documents] == [row["body"] for row in rows]
    assert len({d.run for d in documents}) == 50


def _write_parquet(path: Path, column: str, values: list[object], **more: list[object]) -> None:
    table = pyarrow.table({column: values, **more})
    pyarrow.parquet.write_table(table, path, row_group_size=7)


def test_rows_of_parquet_are_documents_in_order(tmp_path: Path) -> None:
    texts = [f"document {i}" for i in range(30)]
    _write_parquet(tmp_path / "a.parquet", "text", texts, other=list(range(30)))
    documents = _documents(DataSource(corpus=str(tmp_path / "a.parquet")))
    assert [d.data.decode() for d in documents] == texts


def test_lines_are_stripped_and_empty_ones_left_out(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(" one \n\n \ntwo\u00a0\nthree", encoding="utf-8")
    documents = _documents(DataSource(corpus=str(tmp_path / "a.txt"), document="line"))
    assert [d.data.decode() for d in documents] == ["one", "two", "three"]


def test_a_byte_order_mark_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbf" + TEXT.encode())
    assert _joined(DataSource(corpus=str(tmp_path / "a.txt"))) == TEXT
    lines = _documents(DataSource(corpus=str(tmp_path / "a.txt"), document="line"))
    assert lines[0].data == TEXT.split("\n")[0].encode()


def test_lists_globs_and_folders_name_each_file_once_in_order(tmp_path: Path) -> None:
    for name in ("b.txt", "a.txt", "sub/c.txt", "sub/.hidden"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name, encoding="utf-8")
    listed = open_files(DataSource(corpus=(str(tmp_path / "b.txt"), str(tmp_path / "*.txt"))))
    assert [path.name for path in listed.train] == ["b.txt", "a.txt"]
    folder = open_files(DataSource(corpus=str(tmp_path)))
    assert [path.name for path in folder.train] == ["a.txt", "b.txt", "c.txt"]
    every = open_files(DataSource(corpus=str(tmp_path / "**" / "*.txt")))
    assert [path.name for path in every.train] == ["a.txt", "b.txt", "c.txt"]


def test_the_five_rust_files_of_the_diary_hold_204243_bytes(shared_text: Path) -> None:
    source = DataSource(corpus=str(shared_text / "ragit-rust" / "dataset.txt"))
    assert sum(len(d.data) for d in _documents(source)) == 204_243


def test_a_file_list_is_read_in_the_order_given(shared_text: Path, tmp_path: Path) -> None:
    """The `Rust coder` corpus is a list of five files; cut the joined one in five again."""
    data = (shared_text / "ragit-rust" / "dataset.txt").read_bytes()
    names = []
    for number in range(5):
        names.append(str(tmp_path / f"{9 - number}.rs"))
        start = number * 40_000
        Path(names[-1]).write_bytes(data[start : start + 40_000 if number < 4 else None])
    read = b"".join(d.data for d in _documents(DataSource(corpus=tuple(names))))
    assert read == data
    assert len(read) == 204_243


def test_a_single_file_is_held_out_in_parts_from_all_over_it(corpus_file: Path) -> None:
    documents = _documents(DataSource(corpus=str(corpus_file)))
    held_out = [i for i, d in enumerate(documents) if d.validation]
    assert b"".join(d.data for d in documents) == corpus_file.read_bytes()
    assert len(documents) > 100
    groups = [index // 20 for index in held_out]
    assert groups[: len(documents) // 20] == list(range(len(documents) // 20))
    assert len({index % 20 for index in held_out}) > 1
    assert [d.part for d in documents] == list(range(len(documents)))


def test_the_held_out_part_grows_with_the_fraction_and_moves_with_the_seed(
    corpus_file: Path,
) -> None:
    def held_out(**fields: object) -> list[int]:
        source = DataSource(corpus=str(corpus_file), **fields)  # type: ignore[arg-type]
        return [i for i, d in enumerate(_documents(source)) if d.validation]

    count = len(_documents(DataSource(corpus=str(corpus_file))))
    assert len(held_out(validation_fraction=0.2)) == pytest.approx(0.2 * count, abs=1)
    assert held_out(seed=1) != held_out(seed=0)
    assert held_out(seed=1) == held_out(seed=1)


def test_equal_rows_fall_on_the_same_side(tmp_path: Path) -> None:
    rows = [{"text": f"document {i % 100}"} for i in range(1000)]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    sides: dict[bytes, set[bool]] = {}
    for document in _documents(
        DataSource(corpus=str(tmp_path / "a.jsonl"), validation_fraction=0.3)
    ):
        sides.setdefault(document.data, set()).add(document.validation)
    assert all(len(side) == 1 for side in sides.values())
    assert 15 <= sum(True in side for side in sides.values()) <= 45


def test_many_files_are_held_out_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "WHOLE_FILES", 20)
    for number in range(60):
        text = f"file {number}\n" * 200
        (tmp_path / f"{number}.txt").write_text(text, encoding="utf-8")
    sides: dict[int, set[bool]] = {}
    source = DataSource(corpus=str(tmp_path), validation_fraction=0.3)
    for document in _documents(source):
        sides.setdefault(document.run, set()).add(document.validation)
    assert all(len(side) == 1 for side in sides.values())
    assert {True} in sides.values()
    assert "by hash of the content" in open_files(source).split


def test_files_of_their_own_are_the_whole_validation(corpus_file: Path, tmp_path: Path) -> None:
    (tmp_path / "val.txt").write_text("held out\n", encoding="utf-8")
    documents = _documents(
        DataSource(corpus=str(corpus_file), validation=str(tmp_path / "val.txt"))
    )
    assert b"".join(d.data for d in documents if d.validation) == b"held out\n"
    assert b"".join(d.data for d in documents if not d.validation) == corpus_file.read_bytes()


@UNTIMED
@given(
    st.text(alphabet=st.sampled_from("a \n\té€😀"), min_size=1, max_size=3000),
    st.integers(16, 200),
    st.integers(1, 50),
)
def test_parts_join_to_the_text_and_are_whole_characters(
    tmp_path_factory: pytest.TempPathFactory, text: str, part_bytes: int, read_bytes: int
) -> None:
    path = tmp_path_factory.mktemp("parts") / "a.txt"
    path.write_bytes(text.encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streams, "READ_BYTES", read_bytes)
        parts = list(streams.parts(path, part_bytes=part_bytes))
    assert b"".join(parts) == text.encode()
    assert all(0 < len(part) <= part_bytes for part in parts)
    for part in parts:
        part.decode("utf-8")


def test_a_part_ends_before_the_white_space_of_a_line_end(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("abc def \n\nghi jkl", encoding="utf-8")
    assert list(streams.parts(tmp_path / "a.txt", part_bytes=12)) == [b"abc def", b" \n\nghi jkl"]


def test_parts_do_not_depend_on_how_much_is_read_at_once(
    corpus_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = list(streams.parts(corpus_file, part_bytes=700))
    monkeypatch.setattr(streams, "READ_BYTES", 333)
    assert list(streams.parts(corpus_file, part_bytes=700)) == whole


def test_fingerprint_follows_content_and_settings_not_names(tmp_path: Path) -> None:
    def fingerprint(name: str, data: str, **fields: object) -> str:
        (tmp_path / name).write_text(data, encoding="utf-8")
        source = DataSource(corpus=str(tmp_path / name), **fields)  # type: ignore[arg-type]
        return open_files(source).fingerprint()

    first = fingerprint("a.txt", TEXT)
    assert fingerprint("b.txt", TEXT) == first
    others = [
        fingerprint("a.txt", TEXT + "x"),
        fingerprint("a.txt", TEXT, seed=1),
        fingerprint("a.txt", TEXT, validation_fraction=0.1),
        fingerprint("a.txt", TEXT, document="line"),
        fingerprint("a.jsonl", TEXT),
    ]
    assert len({first, *others}) == 6


# Bad input


def _fails(source: DataSource) -> DataError:
    with pytest.raises(DataError) as caught:
        _documents(source)
    return caught.value


def test_a_missing_path_is_given_absolutely_with_a_near_name(corpus_file: Path) -> None:
    error = _fails(DataSource(corpus=str(corpus_file.with_name("corpsu.txt"))))
    assert error.rule == "corpus-missing"
    assert str(corpus_file.with_name("corpsu.txt")) in error.message
    assert "did you mean 'corpus.txt'" in error.message


def test_a_missing_relative_path_is_resolved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    error = _fails(DataSource(corpus="no/such/file.txt"))
    assert str(tmp_path / "no/such/file.txt") in error.message
    assert f"the folder {tmp_path / 'no'} does not exist" in error.message


def test_a_pattern_without_a_match_and_an_empty_folder_are_missing(tmp_path: Path) -> None:
    assert _fails(DataSource(corpus=str(tmp_path / "*.txt"))).rule == "corpus-missing"
    assert _fails(DataSource(corpus=str(tmp_path))).rule == "corpus-missing"


def test_a_missing_validation_file_names_its_field(corpus_file: Path) -> None:
    error = _fails(DataSource(corpus=str(corpus_file), validation="nowhere.txt"))
    assert (error.rule, error.place) == ("corpus-missing", "validation")


@pytest.mark.parametrize("offset", [0, 100, 5_000_000])
def test_text_that_is_not_utf8_is_refused_with_the_byte_offset(tmp_path: Path, offset: int) -> None:
    path = tmp_path / "latin.txt"
    path.write_bytes((b"word word\n" * (offset // 10 + 1))[:offset] + b"\xff and more\n")
    error = _fails(DataSource(corpus=str(path)))
    assert error.rule == "not-utf8"
    assert error.place == f"{path}, byte {offset}"
    assert "0xff" in error.message


def test_the_byte_offset_counts_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfab\xff")
    assert _fails(DataSource(corpus=str(tmp_path / "a.txt"))).place.endswith("byte 5")


@pytest.mark.parametrize(
    ("pack", "ending"),
    [(gzip.compress, ".gz"), (lzma.compress, ".xz"), (bz2.compress, ".bz2"), (_zstd, ".zst")],
)
def test_packed_content_under_a_text_name_is_refused(tmp_path: Path, pack, ending: str) -> None:
    path = tmp_path / "corpus.txt"
    path.write_bytes(pack(TEXT.encode()))
    error = _fails(DataSource(corpus=str(path)))
    assert error.rule == "file-type"
    assert error.remedy == f"Name it corpus.txt{ending}"


def test_parquet_under_a_text_name_is_refused(tmp_path: Path) -> None:
    _write_parquet(tmp_path / "corpus.txt", "text", ["a"])
    assert (
        "its content is Parquet" in _fails(DataSource(corpus=str(tmp_path / "corpus.txt"))).message
    )


@pytest.mark.parametrize("name", ["a.txt.gz", "a.txt.xz", "a.txt.bz2", "a.txt.zst", "a.parquet"])
def test_a_file_that_is_not_what_its_ending_says_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(TEXT, encoding="utf-8")
    error = _fails(DataSource(corpus=str(tmp_path / name)))
    assert (error.rule, error.place) == ("file-unreadable", str(tmp_path / name))


@pytest.mark.parametrize("name", ["a.txt.gz", "a.txt.xz", "a.txt.bz2"])
def test_a_truncated_compressed_file_is_refused(tmp_path: Path, name: str) -> None:
    pack = {".gz": gzip.compress, ".xz": lzma.compress, ".bz2": bz2.compress}[Path(name).suffix]
    data = pack(TEXT.encode())
    (tmp_path / name).write_bytes(data[: len(data) // 2])
    assert _fails(DataSource(corpus=str(tmp_path / name))).rule == "file-unreadable"


def test_a_truncated_parquet_file_is_refused(tmp_path: Path) -> None:
    _write_parquet(tmp_path / "a.parquet", "text", [f"text {i}" for i in range(1000)])
    data = (tmp_path / "a.parquet").read_bytes()
    (tmp_path / "a.parquet").write_bytes(data[: len(data) // 2])
    assert _fails(DataSource(corpus=str(tmp_path / "a.parquet"))).rule == "file-unreadable"


def test_damaged_parquet_pages_are_refused(tmp_path: Path) -> None:
    _write_parquet(tmp_path / "a.parquet", "text", [f"text {i}" for i in range(1000)])
    data = bytearray((tmp_path / "a.parquet").read_bytes())
    data[4:200] = b"\xff" * 196
    (tmp_path / "a.parquet").write_bytes(bytes(data))
    assert _fails(DataSource(corpus=str(tmp_path / "a.parquet"))).rule == "file-unreadable"


def test_a_missing_column_is_refused_and_the_columns_listed(tmp_path: Path) -> None:
    _write_parquet(tmp_path / "a.parquet", "texts", ["a"], label=[1])
    (tmp_path / "a.jsonl").write_text('{"texts": "a", "label": 1}\n', encoding="utf-8")
    for name in ("a.parquet", "a.jsonl"):
        error = _fails(DataSource(corpus=str(tmp_path / name)))
        assert error.rule == "column-missing"
        assert "texts, label" in error.message
        assert "did you mean 'texts'" in error.message


def test_a_column_that_is_not_text_is_refused(tmp_path: Path) -> None:
    _write_parquet(tmp_path / "a.parquet", "text", [1, 2])
    _write_parquet(tmp_path / "b.parquet", "text", [b"pickled", b"bytes"])
    _write_parquet(tmp_path / "null.parquet", "text", ["a", None])
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n{"text": 3}\n', encoding="utf-8")
    for name in ("a.parquet", "b.parquet", "null.parquet", "a.jsonl"):
        assert _fails(DataSource(corpus=str(tmp_path / name))).rule == "column-type"


@pytest.mark.parametrize("line", ['{"text": "a"', "[1]", "plain text"])
def test_a_line_that_is_no_json_object_is_refused_with_its_number(
    tmp_path: Path, line: str
) -> None:
    (tmp_path / "a.jsonl").write_text(f'{{"text": "a"}}\n\n{line}\n', encoding="utf-8")
    error = _fails(DataSource(corpus=str(tmp_path / "a.jsonl")))
    assert (error.rule, error.place) == ("file-type", f"{tmp_path / 'a.jsonl'}, line 3")


def test_a_lone_surrogate_in_json_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "a\\ud800"}\n', encoding="utf-8")
    assert _fails(DataSource(corpus=str(tmp_path / "a.jsonl"))).rule == "not-utf8"


@pytest.mark.parametrize("how", ["copy", "link", "glob"])
def test_the_same_file_in_both_splits_is_refused(
    corpus_file: Path, tmp_path: Path, how: str
) -> None:
    other = tmp_path / "other.txt"
    if how == "copy":
        other.write_bytes(corpus_file.read_bytes())
    elif how == "link":
        other.symlink_to(corpus_file)
    else:
        other = corpus_file.with_name("corp?s.txt")
    with pytest.raises(DataError, match="must not share text") as caught:
        open_files(DataSource(corpus=str(corpus_file), validation=str(other)))
    assert caught.value.rule == "validation-overlap"


def _shared(train: Path, validation: Path, **fields: object) -> float | None:
    source = DataSource(corpus=str(train), validation=str(validation), **fields)  # type: ignore[arg-type]
    return open_files(source).shared_fraction()


def test_an_excerpt_of_the_training_text_is_refused(corpus_file: Path, tmp_path: Path) -> None:
    text = corpus_file.read_text(encoding="utf-8")
    (tmp_path / "val.txt").write_text(text[20_000:30_000], encoding="utf-8")
    with pytest.raises(DataError, match=r"9\d\.\d% of the validation's lines") as caught:
        _shared(corpus_file, tmp_path / "val.txt")
    assert caught.value.rule == "validation-overlap"


def test_a_few_recurring_lines_are_recorded_not_refused(corpus_file: Path, tmp_path: Path) -> None:
    lines = corpus_file.read_text(encoding="utf-8").splitlines()
    own = [line + " of its own" for line in lines[:90]]
    (tmp_path / "val.txt").write_text("\n".join(own + lines[:10]), encoding="utf-8")
    assert _shared(corpus_file, tmp_path / "val.txt") == pytest.approx(0.08, abs=0.02)


def test_a_row_in_both_splits_is_refused(tmp_path: Path) -> None:
    train = [json.dumps({"text": f"document {i}"}) for i in range(50)]
    validation = [json.dumps({"text": f"other {i}"}) for i in range(20)]
    (tmp_path / "train.jsonl").write_text("\n".join(train), encoding="utf-8")
    (tmp_path / "val.jsonl").write_text("\n".join(validation), encoding="utf-8")
    assert _shared(tmp_path / "train.jsonl", tmp_path / "val.jsonl") == 0.0
    (tmp_path / "val.jsonl").write_text("\n".join([*validation, train[7]]), encoding="utf-8")
    with pytest.raises(DataError, match="documents"):
        _shared(tmp_path / "train.jsonl", tmp_path / "val.jsonl")


def test_real_splits_do_not_count_as_overlapping(shared_text: Path) -> None:
    fraction = _shared(
        shared_text / "wikitext-2-raw" / "wiki.test.raw",
        shared_text / "wikitext-2-raw" / "wiki.valid.raw",
    )
    assert fraction == 0.0
    fraction = _shared(shared_text / "peps" / "train.txt.xz", shared_text / "peps" / "val.txt")
    assert fraction == pytest.approx(0.064, abs=0.001)


def test_size_of_text_is_estimated_from_the_head_of_a_file(tmp_path: Path) -> None:
    data = TEXT.encode() * 3
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(data))
    (tmp_path / "b.txt").write_bytes(data)
    rows = [{"text": f"document {i:05d}", "other": "x" * 40} for i in range(5000)]
    (tmp_path / "c.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    texts = [row["text"] for row in rows]
    _write_parquet(tmp_path / "d.parquet", "text", texts, other=[row["other"] for row in rows])

    def estimate(name: str) -> int:
        return expanded_bytes([tmp_path / name], column="text")

    assert estimate("a.txt.gz") == pytest.approx(len(data), rel=0.01)
    assert estimate("b.txt") == len(data)
    assert estimate("c.jsonl") == pytest.approx(14 * 5000, rel=0.02)
    assert 14 * 5000 <= estimate("d.parquet") < 40 * 5000
    with pytest.raises(DataError, match="text, other"):
        expanded_bytes([tmp_path / "d.parquet"], column="body")


def test_description_names_the_first_files_only(tmp_path: Path) -> None:
    corpus = FileCorpus(
        train=tuple(Path(f"{i}.txt") for i in range(5)),
        validation=(Path("v.txt"),),
        text_column="text",
        lines=False,
        seed=0,
        validation_fraction=0.05,
    )
    assert corpus.description == "files: 0.txt, 1.txt, 2.txt and 2 more; validation v.txt"
