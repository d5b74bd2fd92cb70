"""Hub data sets through `datasets`, tried on its local builders (row T4)."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import datasets
import pyarrow
import pyarrow.parquet
import pytest

from trainer.data import facts as facts_module
from trainer.data import hub
from trainer.data.errors import DataError
from trainer.data.hub import HubCorpus, open_hub
from trainer.data.shards import TokenData, prepare
from trainer.data.source import DataSource

ROWS = {
    "train": [f"training document {i}\nof two lines" for i in range(200)],
    "test": [f"test document {i}" for i in range(20)],
}


@pytest.fixture(autouse=True)
def _cache_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "hf"))
    return


def _write(folder: Path, builder: str, split: str, texts: list[str]) -> str:
    path = folder / f"{split}.{builder}"
    if builder == "json":
        rows = [json.dumps({"text": text, "id": i}) for i, text in enumerate(texts)]
        path.write_text("\n".join(rows), encoding="utf-8")
    elif builder == "parquet":
        pyarrow.parquet.write_table(pyarrow.table({"text": texts}), path)
    else:
        path.write_text("\n".join(texts), encoding="utf-8")
    return str(path)


def _corpus(folder: Path, builder: str = "json", **fields: object) -> HubCorpus:
    files = tuple((split, _write(folder, builder, split, rows)) for split, rows in ROWS.items())
    source = DataSource(corpus=f"hub:{builder}", **fields)  # type: ignore[arg-type]
    return dataclasses.replace(open_hub(source), data_files=files)


@pytest.mark.parametrize("builder", ["json", "parquet"])
def test_rows_of_the_training_split_are_documents_in_order(tmp_path: Path, builder: str) -> None:
    documents = list(_corpus(tmp_path, builder).documents())
    assert [d.data.decode() for d in documents] == ROWS["train"]
    assert 0 < sum(d.validation for d in documents) < 30
    assert len({d.run for d in documents}) == len(documents)


def test_the_text_builder_gives_lines(tmp_path: Path) -> None:
    documents = list(_corpus(tmp_path, "text").documents())
    assert len(documents) == 400
    assert documents[1].data == b"of two lines"


def test_a_named_split_is_the_validation_and_training_stays_whole(tmp_path: Path) -> None:
    corpus = _corpus(tmp_path, validation="split:test")
    documents = list(corpus.documents())
    assert [d.data.decode() for d in documents if d.validation] == ROWS["test"]
    assert [d.data.decode() for d in documents if not d.validation] == ROWS["train"]
    assert corpus.shared_fraction() == 0.0


def test_local_files_can_be_the_validation_of_a_hub_data_set(tmp_path: Path) -> None:
    (tmp_path / "val.txt").write_text("held out text\n", encoding="utf-8")
    corpus = _corpus(tmp_path, validation=str(tmp_path / "val.txt"))
    documents = list(corpus.documents())
    assert [d.data for d in documents if d.validation] == [b"held out text\n"]
    assert sum(not d.validation for d in documents) == 200


def test_rows_in_both_splits_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ROWS, "test", [*ROWS["test"], ROWS["train"][3]])
    with pytest.raises(DataError, match="training rows too"):
        _corpus(tmp_path, validation="split:test").shared_fraction()


def test_a_hub_corpus_is_prepared_like_any_other(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = _corpus(tmp_path, validation="split:test")
    monkeypatch.setattr(hub, "open_hub", lambda source: corpus)
    source = DataSource(corpus="hub:json", validation="split:test", separator="none")
    data = TokenData.open(prepare(source, cache_root=cache))
    assert bytes(data.train.astype("u1")).decode() == "".join(ROWS["train"])
    assert data.manifest.validation_documents == 20
    assert data.manifest.source == "hub: json"
    assert prepare(source, cache_root=cache) == data.data_dir


def test_a_missing_split_or_column_is_refused_and_the_valid_ones_listed(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"\(test, train\).*did you mean 'test'") as caught:
        list(_corpus(tmp_path, validation="split:tests").documents())
    assert caught.value.rule == "split-missing"
    with pytest.raises(DataError, match="text, id") as caught:
        list(_corpus(tmp_path, text_column="content").documents())
    assert caught.value.rule == "column-missing"


def test_fingerprint_follows_settings_and_files(tmp_path: Path) -> None:
    corpus = _corpus(tmp_path)
    first = corpus.fingerprint()
    assert corpus.fingerprint() == first
    changed = [
        dataclasses.replace(corpus, seed=1),
        dataclasses.replace(corpus, validation_split="test"),
        dataclasses.replace(corpus, text_column="id"),
        dataclasses.replace(corpus, data_files=corpus.data_files[:1]),
    ]
    assert len({first, *(other.fingerprint() for other in changed)}) == 5


@pytest.mark.parametrize("error", [OSError("offline\nmore"), ValueError("no such configuration")])
def test_a_data_set_that_cannot_be_reached_is_refused(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def refuse(*_: object, **options: object) -> None:
        assert "trust_remote_code" not in options
        raise error

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    monkeypatch.setattr(datasets, "load_dataset_builder", refuse)
    corpus = open_hub(DataSource(corpus="nobody/nothing:part"))
    for act in (corpus.fingerprint, lambda: list(corpus.documents()), lambda: corpus.size_bytes):
        with pytest.raises(DataError, match="data set of the hub") as caught:
            act()
        assert caught.value.rule == "corpus-unreachable"
        assert "more" not in caught.value.message
        assert "nobody/nothing" in caught.value.place


def test_name_and_configuration_are_handed_to_the_library(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[tuple[object, ...]] = []

    def load(path: str, *, streaming: bool, name: str | None) -> dict[str, list[dict[str, str]]]:
        asked.append((path, name, streaming))
        return {"train": [{"text": "a"}]}

    monkeypatch.setattr(datasets, "load_dataset", load)
    corpus = open_hub(DataSource(corpus="Salesforce/wikitext:wikitext-2-raw-v1"))
    assert [d.data for d in corpus.documents()] == [b"a"]
    assert asked == [("Salesforce/wikitext", "wikitext-2-raw-v1", True)]


def _sized(corpus: HubCorpus, monkeypatch: pytest.MonkeyPatch, sizes: dict[str, int]) -> None:
    monkeypatch.setattr(HubCorpus, "split_bytes", lambda self: sizes)
    monkeypatch.setattr(facts_module, "open_corpus", lambda source: corpus)


def test_facts_of_a_hub_data_set_rest_on_the_sizes_that_the_hub_states(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _sized(_corpus(tmp_path), monkeypatch, {"train": 1000, "test": 77})
    found = facts_module.facts(DataSource(corpus="hub:json", validation_fraction=0.1))
    assert (found.train_tokens, found.validation_tokens, found.exact) == (900, 100, False)
    named = {"validation": "split:test"}
    _sized(_corpus(tmp_path, **named), monkeypatch, {"train": 1000, "test": 77})
    found = facts_module.facts(DataSource(corpus="hub:json", **named))
    assert (found.train_tokens, found.validation_tokens) == (1000, 77)


def test_facts_of_a_hub_data_set_of_unknown_size_are_refused_instead_of_fetching_it_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _sized(_corpus(tmp_path), monkeypatch, {})
    with pytest.raises(DataError, match="must state the size") as caught:
        facts_module.facts(DataSource(corpus="hub:json"))
    assert caught.value.rule == "corpus-size-unknown"
