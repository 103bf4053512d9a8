from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

import cloudflux.price_books
from cloudflux.domain.errors import SettingsError
from cloudflux.domain.prices import AutopilotScope, Latency
from cloudflux.domain.tiers import Provider
from cloudflux.price_books import available_books, load_book
from cloudflux.price_books.loader import read_book

FILES = sorted(Path(cloudflux.price_books.__file__).parent.glob("*.json"))


def content_of(name):
    return json.loads(next(path for path in FILES if path.stem == name).read_text())


def written(tmp_path, content, name="mine.json"):
    path = tmp_path / name
    path.write_text(json.dumps(content) if name.endswith(".json") else yaml.safe_dump(content))
    return path


def figures(node, key=""):
    """Every leaf of a book that states a price or a rule, with the object that holds it."""
    if isinstance(node, dict):
        if "usd" in node or "value" in node or "text" in node:
            yield key, node
        for name, value in node.items():
            yield from figures(value, f"{key}.{name}")
    elif isinstance(node, list):
        for position, value in enumerate(node):
            yield from figures(value, f"{key}.{position}")


def test_books_of_three_providers_are_there_when_listed():
    assert available_books() == (
        "aws-us-east-1",
        "aws-us-east-1-archive",
        "azure-eastus-lrs",
        "gcs-us-central1",
        "gcs-us-central1-soft-delete",
        "gcs-us-multi",
    )
    assert {load_book(name).provider for name in available_books()} == set(Provider)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_figure_names_a_dated_source_when_a_book_is_read(path):
    book = json.loads(path.read_text())
    stated = list(figures({name: node for name, node in book.items() if name != "sources"}))
    assert len(stated) > 30
    cited = set()
    for key, figure in stated:
        sources = figure["src"] if isinstance(figure["src"], list) else [figure["src"]]
        assert sources, key
        cited.update(sources)
    assert cited <= set(book["sources"])
    assert all(source["seen_on"] and source["title"] for source in book["sources"].values())
    assert book["name"] == path.stem


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_colder_classes_hold_for_less_and_read_for_more_when_in_book_order(path):
    book = load_book(path.stem)
    plain = [prices for prices in book.classes if prices.autopilot is None]
    assert book.class_names[0] == book.class_names[book.standard_code]
    storage = [prices.storage_usd_gib_month for prices in plain]
    assert storage == sorted(storage, reverse=True)
    assert all(prices.retrieval_usd_gib > 0 for prices in plain[1:])
    assert [prices.min_days for prices in plain] == sorted(prices.min_days for prices in plain)


def test_prices_are_of_one_request_when_published_by_the_thousand():
    ir = load_book("aws-us-east-1").prices_of("GLACIER_IR")
    assert (ir.storage_usd_gib_month, ir.write_usd, ir.read_usd) == (0.004, 0.00002, 0.00001)
    assert (ir.retrieval_usd_gib, ir.min_days, ir.min_billable_bytes) == (0.03, 90, 131_072)
    cold = load_book("azure-eastus-lrs").prices_of("Cold")
    assert (cold.write_usd, cold.read_usd, cold.retrieval_usd_gib) == (0.000018, 0.00001, 0.03)
    archive = load_book("gcs-us-multi").prices_of("ARCHIVE")
    assert (archive.write_usd, archive.storage_usd_gib_month, archive.latency) == (0.0001, 0.003, Latency.MS)


def test_rules_of_a_class_are_kept_when_a_book_is_read():
    aws = load_book("aws-us-east-1")
    deep = aws.prices_of("DEEP_ARCHIVE")
    assert (deep.overhead_class_bytes, deep.overhead_standard_bytes, deep.latency) == (32_768, 8_192, Latency.HOURS)
    assert [c.storage_class for c in aws.classes if c.single_az] == ["ONEZONE_IA"]
    autopilot = aws.prices_of("INTELLIGENT_TIERING").autopilot
    assert autopilot is not None
    assert autopilot.scope == AutopilotScope.OBJECT
    assert [(step.idle_days, step.storage_usd_gib_month) for step in autopilot.steps] == [(30, 0.0125), (90, 0.004)]


@pytest.mark.parametrize("suffix", ["json", "yaml"])
def test_book_of_ones_own_is_read_when_its_path_is_given(tmp_path, suffix):
    content = content_of("gcs-us-central1") | {"name": "negotiated"}
    content["classes"][0]["storage"]["usd"] = 0.017
    book = load_book(written(tmp_path, content, f"mine.{suffix}"))
    assert book.name == "negotiated"
    assert book.prices_of("STANDARD").storage_usd_gib_month == 0.017
    assert book.prices_of("NEARLINE") == load_book("gcs-us-central1").prices_of("NEARLINE")


PROMOTION = {
    "request": {"usd": 0.005, "per": "1000 requests", "src": "A1"},
    "from_idle_days": {"value": 60, "src": "A1"},
}


def bands(book):
    return book["classes"][0]["storage_bands"]


def restores(book):
    return book["classes"][5]["restores"]


def autopilot(book):
    return book["classes"][1]["autopilot"]


def broken(change):
    content = content_of("aws-us-east-1")
    change(content)
    return content


@pytest.mark.parametrize(
    ("change", "key"),
    [
        (lambda book: book["classes"][0].update(storrage=1), "classes.STANDARD.storrage"),
        (lambda book: book["classes"][0]["storage"].pop("src"), "classes.STANDARD.storage.src"),
        (
            lambda book: book["classes"][0]["storage"].update(src="Q9"),
            "classes.STANDARD.storage.src: there is no source 'Q9'",
        ),
        (lambda book: book["classes"][1]["read"].update(usd=-1), "classes.INTELLIGENT_TIERING.read.usd"),
        (lambda book: book["classes"][1]["read"].update(usd=float("nan")), "classes.INTELLIGENT_TIERING.read.usd"),
        (lambda book: book["classes"][1]["read"].update(per="GiB"), "read.per: 'GiB'"),
        (lambda book: book["classes"][1]["read"].update(per="dozen"), "classes.INTELLIGENT_TIERING.read.per"),
        (lambda book: book["classes"][2].update(storage_class="Cool"), "classes.2.storage_class: aws has no"),
        (lambda book: book["classes"][3].pop("min_days"), "classes.ONEZONE_IA.min_days"),
        (lambda book: book["classes"].pop(0), "STANDARD, the class of an upload, is missing"),
        (lambda book: book["classes"].append(book["classes"][2]), "a storage class is there twice"),
        (lambda book: book["classes"][1]["autopilot"]["steps"].reverse(), "idle_days must rise"),
        (lambda book: book.update(provider="ibm"), "provider"),
        (lambda book: book.update(schema="cloudflux-price-book/2"), "schema"),
        (lambda book: book["sources"]["A1"].update(as_of="last week"), "sources.A1.as_of"),
        (lambda book: book["sources"]["A1"].update(as_of="2026-13"), "sources.A1.as_of: 2026-13 is no date"),
        (lambda book: book["sources"]["A1"].update(as_of="2026-13-45"), "sources.A1.as_of: 2026-13-45 is no date"),
        (lambda book: book["sources"]["A1"].update(as_of="2026-02-30"), "sources.A1.as_of: 2026-02-30 is no date"),
        (lambda book: book["sources"]["A1"].update(as_of="0000"), "sources.A1.as_of: 0000 is no date"),
        (
            lambda book: book["classes"][2]["storage"].update(usd="1e400"),
            "classes.STANDARD_IA.storage.usd: Input should be less than or equal to 1000000",
        ),
        (lambda book: book["fees"][0].update(usd="1e400"), "fees.0.usd: Input should be less than or equal to"),
        (
            lambda book: book["classes"][2]["min_billable_bytes"].update(value=10**30),
            "classes.STANDARD_IA.min_billable_bytes.value: Input should be less than or equal to 1099511627776",
        ),
        (
            lambda book: book["classes"][2]["min_days"].update(value=10**9),
            "classes.STANDARD_IA.min_days.value: Input should be less than or equal to 36500",
        ),
        (lambda book: autopilot(book)["steps"][1].update(idle_days=10**9), "autopilot.steps.1.idle_days: Input should"),
        (lambda book: restores(book)[2]["time"].update(within_minutes=10**9), "restores.2.time.within_minutes: Input"),
        (lambda book: bands(book)[1].update(up_to_gib=10**30), "storage_bands.1.up_to_gib: Input should be less"),
        (lambda book: book["classes"][2].update(storage_class=7), "classes.2.storage_class: Input should be"),
        (lambda book: book["classes"].insert(2, "STANDARD_IA"), "classes.2: Input should be"),
        (
            lambda book: book["classes"][2]["min_days"].update(value=True),
            "classes.STANDARD_IA.min_days.value: Input should be a nu",
        ),
        (lambda book: book["classes"][2]["min_days"].update(value=-1), "classes.STANDARD_IA.min_days.value"),
        (lambda book: book["classes"][2]["min_days"].update(value=1.5), "classes.STANDARD_IA.min_days.value"),
        (lambda book: book.pop("classes"), "classes: Field required"),
        (
            lambda book: book["classes"].pop(6),
            "classes.STANDARD.lifecycle_to: it names DEEP_ARCHIVE, which this book does not",
        ),
        (
            lambda book: book["classes"][2].update(storage_class="STANDARD"),
            "classes.2.storage_class: a storage class is",
        ),
        (lambda book: bands(book).reverse(), "classes.STANDARD.storage_bands: the last band, and no other"),
        (lambda book: bands(book).pop(), "classes.STANDARD.storage_bands: the last band, and no other"),
        (lambda book: bands(book)[1].update(up_to_gib=51200), "classes.STANDARD.storage_bands: up_to_gib must rise"),
        (
            lambda book: bands(book)[0].update(usd=0.02),
            "classes.STANDARD.storage_bands.0.usd: the first band must cost",
        ),
        (lambda book: bands(book)[1].update(usd=-0.02), "classes.STANDARD.storage_bands.1.usd"),
        (lambda book: bands(book)[1].update(per="GiB"), "classes.STANDARD.storage_bands.1.per: 'GiB'"),
        (lambda book: bands(book)[1].update(up_to_gib=0), "classes.STANDARD.storage_bands.1.up_to_gib"),
        (
            lambda book: restores(book)[0].update(default=True),
            "classes.GLACIER.restores: one speed, and one only, must be the",
        ),
        (lambda book: restores(book)[1].update(name="bulk"), "classes.GLACIER.restores: two speeds have the same name"),
        (lambda book: restores(book).reverse(), "classes.GLACIER.restores: they must be in order"),
        (
            lambda book: restores(book)[1].update(request=None),
            "classes.GLACIER.restores.1.request: the default speed must",
        ),
        (
            lambda book: restores(book)[1]["retrieval"].update(usd=1),
            "classes.GLACIER.restores.1.retrieval: the default speed",
        ),
        (
            lambda book: restores(book)[0]["retrieval"].update(per="GiB-month"),
            "classes.GLACIER.restores.0.retrieval.per",
        ),
        (
            lambda book: restores(book)[0]["time"].update(soonest_minutes=9),
            "restores.0.time.within_minutes: it is before",
        ),
        (
            lambda book: autopilot(book)["monitoring"].update(per="GiB"),
            "classes.INTELLIGENT_TIERING.autopilot.monitoring.per: 'GiB'",
        ),
        (lambda book: autopilot(book)["steps"][0]["storage"].update(per="GiB"), "autopilot.steps.0.storage.per: 'GiB'"),
        (
            lambda book: autopilot(book)["steps"][0]["storage"].update(usd=1),
            "classes.INTELLIGENT_TIERING.autopilot.steps: storage prices",
        ),
        (
            lambda book: autopilot(book)["steps"][0].update(as_class="GLACIAL"),
            "steps.0.storage: it is billed as GLACIAL",
        ),
        (lambda book: autopilot(book)["archive_steps"][1].update(max_idle_days=9), "archive_steps.1.max_idle_days"),
        (lambda book: autopilot(book)["archive_steps"][1]["restores"].pop(0), "archive_steps.1.restores: one speed"),
        (
            lambda book: autopilot(book).update(promotion=PROMOTION),
            "autopilot.promotion.from_idle_days: no step begins",
        ),
        (
            lambda book: autopilot(book).update(leave=PROMOTION["request"] | {"per": "GiB"}),
            "autopilot.leave.per: 'GiB'",
        ),
        (lambda book: book["list"].update(per="GiB"), "list.per: 'GiB'"),
        (lambda book: book["fees"][0].update(src="Q9"), "fees.0.src: there is no source 'Q9'"),
        (lambda book: book["moves"].update(lifecycle_min_byte=1), "moves.lifecycle_min_byte: Extra inputs"),
    ],
)
def test_bad_book_names_file_and_key_when_loaded(tmp_path, change, key):
    path = written(tmp_path, broken(change))
    with pytest.raises(SettingsError) as caught:
        load_book(path)
    assert str(path) in str(caught.value)
    assert key in str(caught.value)


@pytest.mark.parametrize(
    ("name", "text"), [("cut.json", '{"schema": "clou'), ("bad.yaml", "a: [1"), ("list.json", "[]")]
)
def test_file_that_is_no_book_is_refused_by_name_when_loaded(tmp_path, name, text):
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(SettingsError, match=name):
        load_book(path)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("twice.json", '{"name": "mine", "classes": [{"storage": 1, "write": 2, "storage": 3}]}'),
        ("twice.yaml", "name: mine\nclasses:\n  - storage: 1\n    write: 2\n    storage: 3\n"),
    ],
)
def test_key_is_named_when_it_is_there_twice(tmp_path, name, text):
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(SettingsError, match=rf"{name}: storage: the key is there twice"):
        load_book(path)


def test_bare_year_is_a_date_when_a_source_is_read_from_yaml(tmp_path):
    content = content_of("gcs-us-central1")
    content["sources"]["G1"]["as_of"] = 2026
    assert read_book(written(tmp_path, content, "mine.yaml")).sources["G1"].as_of == "2026"


@pytest.mark.parametrize("as_of", ["2026", "2026-02", "2024-02-29"])
def test_date_of_a_source_is_as_exact_as_it_is_stated(tmp_path, as_of):
    content = content_of("aws-us-east-1")
    content["sources"]["A1"]["as_of"] = as_of
    assert read_book(written(tmp_path, content)).sources["A1"].as_of == as_of


def test_unknown_book_is_refused_with_those_that_exist_when_loaded():
    with pytest.raises(SettingsError, match="aws-us-east-1"):
        load_book("aws-mars-1")
    with pytest.raises(SettingsError, match=r"none\.json"):
        load_book("/nowhere/none.json")


def test_class_is_refused_by_name_when_a_book_does_not_have_it():
    with pytest.raises(KeyError, match="aws-us-east-1 has no storage class 'Hot'"):
        load_book("aws-us-east-1").prices_of("Hot")
