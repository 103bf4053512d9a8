"""`./cloudflux prices`: what is shown, what is refused, and what is taken from a price list."""

from __future__ import annotations

import io
import json
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console
from unit.local.price_lists import (
    BANDS,
    S3_ROWS,
    aws_document,
    azure_items,
    deep_archive_document,
    s3_document,
    serving,
)

from cloudflux.domain.errors import CloudFluxError, SettingsError, TerminalError, TransientError
from cloudflux.local.cli import main
from cloudflux.local.prices.aws_list import METERS, aws_price_list
from cloudflux.local.prices.azure_list import azure_price_list
from cloudflux.local.prices.downloads import Downloads
from cloudflux.local.prices.figures import compared
from cloudflux.local.prices.listed import Listed, Missing
from cloudflux.local.prices.refresh import refresh
from cloudflux.price_books import available_books, load_book
from cloudflux.price_books.loader import BOOKS, read_book
from cloudflux.price_books.writer import book_text

TODAY = date(2026, 11, 24)
S3_PATH = "/offers/v1.0/aws/AmazonS3/current/us-east-1/index.json"
DEEP_ARCHIVE_PATH = "/offers/v1.0/aws/AmazonS3GlacierDeepArchive/current/us-east-1/index.json"
AZURE_PATH = "/api/retail/prices"
RAISED = {("Requests-SIA-Tier2", ""): "0.0000012000", ("Standard-Retrieval-Bytes", "RestoreObject"): "0.0110000000"}


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def aws_pages(**keys: Any) -> dict[str, Any]:
    return {S3_PATH: s3_document(**keys), DEEP_ARCHIVE_PATH: deep_archive_document()}


def refreshed(url: str, *names: str, answer: str = "n", limits: Any = None, **keys: Any) -> tuple[int, str]:
    """Refresh against a server, and give the exit status with all that was printed and asked."""
    printed = io.StringIO()

    def ask(question: str) -> str:
        printed.write(question + "\n")
        return answer

    status = refresh(
        list(names) or None,
        keys.get("target"),
        keys.get("files"),
        taken_unasked=keys.get("yes", False),
        console=Console(width=200, file=printed, highlight=False),
        today=TODAY,
        downloads=Downloads(aws_url=url, azure_url=url, https_only=False, timeout_seconds=5, **(limits or {})),
        ask=ask,
    )
    return status, printed.getvalue()


def test_books_are_listed_with_what_is_unverified(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prices", "list"]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in available_books())
    assert "eastus LRS" in printed


@pytest.mark.parametrize("name", available_books())
def test_every_figure_is_shown_with_its_source(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prices", "show", name]) == 0
    printed = capsys.readouterr().out
    book = read_book(name)
    for prices in book.classes:
        for key in ("storage", "write", "read", "retrieval", "min_days"):
            row = next(line for line in printed.splitlines() if f" {prices.storage_class}.{key} " in line)
            assert row.split("│")[3].strip() == ", ".join(getattr(prices, key).src)
    for key, source in book.sources.items():
        assert key in printed
        assert source.title[:40] in printed


def test_own_book_is_checked_and_what_is_stale_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = json.loads((BOOKS / "gcs-us-central1.json").read_text())
    content["classes"][0]["storage"]["usd"] = 0.017
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(content))
    assert main(["prices", "check", str(path)]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "is valid" in printed
    assert (
        "look at AUTOCLASS.storage: 0.02 USD per GiB-month, but it is billed as STANDARD, whose storage is" in printed
    )
    assert "unverified: STANDARD.latency" in printed


def test_bad_book_is_one_line_with_its_key_when_checked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("schema: cloudflux-price-book/1\nextends: aws-us-east-1\nname: mine\ndiscounts: {GLACIR: 0.1}\n")
    assert main(["prices", "check", str(path)]) == 1
    printed = capsys.readouterr()
    assert printed.err.startswith(f"cloudflux: price book {path}: discounts.GLACIR: there is no class 'GLACIR'")
    assert printed.err.count("\n") == 1


@pytest.mark.parametrize("name", available_books())
@pytest.mark.parametrize("suffix", [".json", ".yaml"])
def test_book_is_the_same_when_written_and_read_again(name: str, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"{name}{suffix}"
    path.write_text(book_text(read_book(name), suffix))
    assert load_book(path) == load_book(name)
    assert read_book(path) == read_book(name)


def test_figures_are_confirmed_when_the_lists_say_the_same() -> None:
    with serving(aws_pages()) as url:
        status, printed = refreshed(url, "aws-us-east-1")
    assert status == 0
    # INTELLIGENT_TIERING has bands in the list, but not in the book
    assert "aws-us-east-1: 2 differences, " in printed
    assert "INTELLIGENT_TIERING.storage above 51200 GiB" in printed
    assert "Nothing is written: name a file or a folder with --write" in printed


def test_every_priced_figure_of_s3_has_a_meter_or_is_free() -> None:
    listed = aws_price_list({"s3": s3_document(), "deep": deep_archive_document()}, "us-east-1")
    comparison = compared(read_book("aws-us-east-1"), listed, TODAY)
    assert {reason for _, reason in comparison.kept} == {"no meter of its own"}
    assert {label for label, _ in comparison.kept} == {
        "STANDARD.retrieval",
        "INTELLIGENT_TIERING.retrieval",
        *(
            f"INTELLIGENT_TIERING.autopilot.archive_steps.{tier}.restores.{speed}.{key}"
            for tier in ("Archive Access", "Deep Archive Access")
            for speed in ("standard", "bulk")
            for key in ("request", "retrieval")
        ),
    }
    assert set(METERS) <= set(comparison.confirmed)


def test_new_book_is_written_after_a_yes_when_prices_changed(tmp_path: Path) -> None:
    with serving(aws_pages(changed=RAISED)) as url:
        status, printed = refreshed(url, "aws-us-east-1", answer="y", target=tmp_path / "books")
    assert status == 0
    row = next(line for line in printed.splitlines() if "STANDARD_IA.read" in line)
    assert [cell.strip() for cell in row.split("│")[1:6]] == [
        "STANDARD_IA.read", "0.001", "0.0012", "+20.0%", "1000 requests",
    ]  # fmt: skip
    assert row.split("│")[6].strip().startswith("SKU00")
    path = tmp_path / "books" / "aws-us-east-1-2026-11-24.json"
    assert f"Write {path} with these figures?" in printed
    book, was = load_book(path), load_book("aws-us-east-1")
    assert (book.name, book.seen_on) == ("aws-us-east-1-2026-11-24", TODAY)
    assert book.prices_of("STANDARD_IA").read_usd == pytest.approx(1.2e-6)
    glacier = book.prices_of("GLACIER")
    assert glacier.retrieval_usd_gib == 0.011
    assert [option.retrieval_usd_gib for option in glacier.restores] == [0.03, 0.011, 0]
    assert book.prices_of("STANDARD") == was.prices_of("STANDARD")
    assert len(book.prices_of("INTELLIGENT_TIERING").storage_bands) == 3
    facts = read_book(path)
    source = facts.sources["AmazonS3-list-2026-11-24"]
    assert f"{url}{S3_PATH}" in source.title
    assert (source.as_of, source.seen_on) == ("2026-11-01", TODAY)
    assert facts.classes[2].read.src == ("AmazonS3-list-2026-11-24",)
    assert facts.classes[6].storage.src == ("AmazonS3GlacierDeepArchive-list-2026-11-24",)
    assert facts.classes[2].min_days.src == ("A1", "A4")
    assert "A2" not in facts.sources  # nothing cites it any more
    assert path.stat().st_mode & 0o777 == 0o644
    assert [p.name for p in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("answer", ["n", "", "maybe"])
def test_nothing_is_written_unless_the_answer_is_yes(tmp_path: Path, answer: str) -> None:
    with serving(aws_pages(changed=RAISED)) as url:
        status, printed = refreshed(url, "aws-us-east-1", answer=answer, target=tmp_path / "mine.yaml")
    assert (status, list(tmp_path.iterdir())) == (0, [])
    assert "Nothing is taken." in printed


def test_nobody_is_asked_when_yes_is_given(tmp_path: Path) -> None:
    with serving(aws_pages(changed=RAISED)) as url:
        _, printed = refreshed(url, "aws-us-east-1", target=tmp_path / "mine.yaml", yes=True)
    assert "with these figures?" not in printed
    assert yaml.safe_load((tmp_path / "mine.yaml").read_text())["name"] == "mine"
    assert load_book(tmp_path / "mine.yaml").prices_of("STANDARD_IA").read_usd == pytest.approx(1.2e-6)


def test_refreshed_book_has_no_differences_when_refreshed_again(tmp_path: Path) -> None:
    pages = aws_pages(changed=RAISED) | {AZURE_PATH: {"Items": azure_items({"Cool Read Operations": 0.02})}}
    with serving(pages) as url:
        refreshed(url, target=tmp_path, yes=True)
        for name in ("aws-us-east-1", "azure-eastus-lrs"):
            path = tmp_path / f"{name}-2026-11-24.json"
            before = path.read_text()
            _, printed = refreshed(url, str(path), target=path, answer="yes")
            assert ": 0 differences, " in printed
            assert f"Replace {path} with these figures?" in printed
            assert path.read_text() == before


def test_missing_figures_are_named_and_stay_as_they_are(tmp_path: Path) -> None:
    pages = aws_pages(without=("Retrieval-GIR", "Requests-Tier6"))
    with serving(pages) as url:
        _, printed = refreshed(url, "aws-us-east-1", target=tmp_path, yes=True)
    assert "kept, Retrieval-GIR is not in the list: GLACIER_IR.retrieval" in printed
    assert "kept, Requests-Tier6 is not in the list: GLACIER.restores.expedited.request" in printed
    book = read_book(tmp_path / "aws-us-east-1-2026-11-24.json")
    assert (book.classes[4].retrieval.usd, book.classes[4].retrieval.src) == (Decimal("0.03"), ("A1",))


def test_other_regions_prefix_is_stripped_and_nothing_else() -> None:
    rows = [*S3_ROWS, ("Retrieval-SIA-Bytes", "", "GB", "9")]
    document = aws_document("AmazonS3", rows, region="eu-central-1", prefix="EUC1-", bands=BANDS)
    listed = aws_price_list({"file": document}, "eu-central-1")
    found = listed.find("STANDARD.storage")
    assert isinstance(found, Listed)
    assert found.bands == (
        (Decimal(0), Decimal("0.023")), (Decimal(51200), Decimal("0.022")), (Decimal(512000), Decimal("0.021")),
    )  # fmt: skip
    retrieval = listed.find("STANDARD_IA.retrieval")
    assert isinstance(retrieval, Listed)
    assert retrieval.bands[0][1] == Decimal("0.01")
    write = listed.find("GLACIER.write")
    assert isinstance(write, Listed)
    assert write.bands[0][1] == Decimal("0.00003")  # not that of multipart uploads
    missing = listed.find("DEEP_ARCHIVE.storage")
    assert missing == Missing("the list of AmazonS3GlacierDeepArchive was not read")


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (("Retrieval-GIR", "", "TB", "30"), "is priced by TB"),
        (("Retrieval-GIR", "", "GB", "0.04"), "Retrieval-GIR has several prices (SKU0000, SKU0001)"),
    ],
)
def test_price_is_left_alone_when_the_list_is_not_clear(row: tuple[str, str, str, str], reason: str) -> None:
    rows = [row] if row[2] == "TB" else [("Retrieval-GIR", "", "GB", "0.03"), row]
    found = aws_price_list({"s3": aws_document("AmazonS3", rows)}, "us-east-1").find("GLACIER_IR.retrieval")
    assert isinstance(found, Missing)
    assert reason in found.reason


def test_price_in_another_currency_is_not_taken() -> None:
    document = aws_document("AmazonS3", [("Retrieval-GIR", "", "GB", "0.03")])
    (offer,) = document["terms"]["OnDemand"]["SKU0000"].values()
    (dimension,) = offer["priceDimensions"].values()
    dimension["pricePerUnit"] = {"CNY": "0.2"}
    assert aws_price_list({"s3": document}, "us-east-1").find("GLACIER_IR.retrieval") == Missing(
        "SKU0000 is not priced in USD"
    )


def paged_azure(items: list[dict[str, Any]]) -> Any:
    """Give a page of five items, with a link to the next, as the real list does by hundreds."""

    def page(host: str, path: str) -> dict[str, Any]:
        start = int(path.partition("$skip=")[2] or 0)
        more = start + 5 < len(items)
        return {
            "BillingCurrency": "USD",
            "Items": items[start : start + 5],
            "NextPageLink": f"{host}{AZURE_PATH}?$skip={start + 5}" if more else None,
            "Count": 5,
        }

    return page


def test_azure_is_read_page_by_page_and_smart_tier_follows_the_tiers(tmp_path: Path) -> None:
    changed = {
        "Cool LRS Data Stored": 0.016,
        "Cool LRS Write Operations": 0.11,
        "Archive Priority Read Operations": 60.0,
    }
    asked: list[str] = []
    with serving({AZURE_PATH: paged_azure(azure_items(changed))}, asked) as url:
        _, printed = refreshed(url, "azure-eastus-lrs", target=tmp_path / "azure.json", yes=True)
    assert len(asked) == 5
    assert "productName eq 'General Block Blob v2' and armRegionName eq 'eastus'" in asked[0]
    changes = {
        line.split("│")[1].strip(): [cell.strip() for cell in line.split("│")[2:4]]
        for line in printed.splitlines()
        if line.startswith("│")
    }
    assert changes == {
        "Cool.storage": ["0.0152", "0.016"],
        "Cool.write": ["0.1", "0.11"],
        "Cool.transition_in": ["0.1", "0.11"],
        "Archive.restores.high.read": ["50", "60"],
        "Smart.autopilot.steps.0.storage": ["0.0152", "0.016"],
        "Smart.autopilot.leave": ["0.1", "0.11"],
    }
    book = load_book(tmp_path / "azure.json")
    smart = book.prices_of("Smart")
    assert smart.autopilot is not None
    assert smart.autopilot.steps[0].storage_usd_gib_month == 0.016
    assert smart.autopilot.leave_usd == pytest.approx(0.11 / 10_000)
    assert smart.storage_bands == book.prices_of("Hot").storage_bands
    assert read_book(tmp_path / "azure.json").classes[0].storage.src == ("azure-retail-prices-2026-11-24",)
    assert "kept, no meter of its own: Hot.retrieval" in printed
    assert "Smart.autopilot.monitoring" in printed  # named, not dropped


def test_smart_tier_keeps_its_price_when_the_list_has_none_of_the_tiers(tmp_path: Path) -> None:
    items = azure_items(without=("Cool LRS Data Stored",))
    with serving({AZURE_PATH: {"Items": items}}) as url:
        _, printed = refreshed(url, "azure-eastus-lrs", target=tmp_path / "azure.json", yes=True)
    reason = "billed as Cool.storage, which the list does not have"
    assert f"kept, {reason}: Smart.autopilot.steps.0.storage" in printed
    autopilot = read_book(tmp_path / "azure.json").classes[1].autopilot
    assert autopilot is not None
    assert autopilot.steps[0].storage.src == ("Z1",)
    assert autopilot.steps[1].storage.src == ("azure-retail-prices-2026-11-24",)


def test_smart_tiers_bands_follow_when_the_hot_ones_change(tmp_path: Path) -> None:
    items = [row | {"retailPrice": 0.0199} if row["tierMinimumUnits"] == 51200 else row for row in azure_items()]
    with serving({AZURE_PATH: {"Items": items}}) as url:
        _, printed = refreshed(url, "azure-eastus-lrs", target=tmp_path / "azure.json", yes=True)
    assert "azure-eastus-lrs: 2 differences" in printed
    assert "Hot.storage above 51200 GiB" in printed
    assert "Smart.storage above 51200 GiB" in printed
    smart = load_book(tmp_path / "azure.json").prices_of("Smart")
    assert [band.usd_gib_month for band in smart.storage_bands] == [0.0208, 0.0199, 0.019136]


def test_another_regions_copy_is_refreshed_by_its_own_list(tmp_path: Path) -> None:
    content = json.loads((BOOKS / "aws-us-east-1.json").read_text()) | {"name": "mine", "region": "eu-central-1"}
    (tmp_path / "mine.json").write_text(json.dumps(content))
    keys: dict[str, Any] = {"region": "eu-central-1", "prefix": "EUC1-"}
    pages = {
        S3_PATH.replace("us-east-1", "eu-central-1"): s3_document(changed=RAISED, **keys),
        DEEP_ARCHIVE_PATH.replace("us-east-1", "eu-central-1"): deep_archive_document(**keys),
    }
    with serving(pages) as url:
        refreshed(url, str(tmp_path / "mine.json"), target=tmp_path / "aws-eu-central-1.yaml", yes=True)
    book = load_book(tmp_path / "aws-eu-central-1.yaml")
    assert (book.name, book.region) == ("aws-eu-central-1", "eu-central-1")
    assert book.prices_of("STANDARD_IA").read_usd == pytest.approx(1.2e-6)


@pytest.mark.parametrize(
    ("item", "reason"),
    [
        ({"unitOfMeasure": "1 TB"}, "Cool Data Retrieval is priced by '1 TB'"),
        ({"tierMinimumUnits": 10}, "Cool Data Retrieval has no price from 0 on"),
        ({"productName": "Blob Storage"}, "Cool Data Retrieval of Cool LRS is not in the list"),
    ],
)
def test_meter_is_left_alone_when_it_is_not_the_very_one(item: dict[str, Any], reason: str) -> None:
    items = [row | item if row["meterName"] == "Cool Data Retrieval" else row for row in azure_items()]
    listed = azure_price_list({"page": {"Items": items}}, "eastus", "LRS")
    assert listed.find("Cool.retrieval") == Missing(reason)


def test_units_are_divided_out_when_a_meter_is_by_the_thousand() -> None:
    items = [
        row | {"unitOfMeasure": "100K"} if row["meterName"] == "Hot Read Operations" else row for row in azure_items()
    ]
    found = azure_price_list({"page": {"Items": items}}, "eastus", "LRS").find("Hot.read")
    assert isinstance(found, Listed)
    assert found.bands == ((Decimal(0), Decimal("0.004") / 100_000),)


def test_downloaded_lists_are_read_when_named(tmp_path: Path) -> None:
    files = []
    for name, document in (("s3.json", s3_document(changed=RAISED)), ("deep.json", deep_archive_document())):
        (tmp_path / name).write_text(json.dumps(document))
        files.append(tmp_path / name)
    _, printed = refreshed("http://127.0.0.1:9", "aws-us-east-1", files=files, target=tmp_path / "new.json", yes=True)
    assert "GLACIER.retrieval" in printed
    assert "file s3.json" in read_book(tmp_path / "new.json").sources["AmazonS3-list-2026-11-24"].title


def test_both_providers_are_compared_when_no_book_is_named() -> None:
    pages = aws_pages() | {AZURE_PATH: {"Items": azure_items(), "NextPageLink": None}}
    with serving(pages) as url:
        _, printed = refreshed(url)
    assert "aws-us-east-1: 2 differences" in printed
    assert "azure-eastus-lrs: 0 differences" in printed


def test_one_line_and_status_1_come_when_there_is_no_internet(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("cloudflux.local.prices.refresh.Downloads", lambda: Downloads("https://127.0.0.1:9"))
    assert main(["prices", "refresh", "--book", "aws-us-east-1"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("cloudflux: the price list at 127.0.0.1:9 cannot be read (ConnectionError)")
    assert "--from" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("pages", "error", "text"),
    [
        ({}, TerminalError, "answers 404"),
        ({S3_PATH: 503}, TransientError, "answers 503"),
        ({S3_PATH: 302}, TerminalError, "answers 302"),
        ({S3_PATH: b"<html>"}, TerminalError, "is not JSON"),
        ({S3_PATH: {"offerCode": "AmazonEC2"}, DEEP_ARCHIVE_PATH: {}}, TerminalError, "its offerCode is 'AmazonEC2'"),
        ({S3_PATH: [], DEEP_ARCHIVE_PATH: []}, TerminalError, "its offerCode is None"),
        (
            {S3_PATH: {"offerCode": "AmazonS3", "products": [1]}, DEEP_ARCHIVE_PATH: deep_archive_document()},
            TerminalError,
            "not in its documented form",
        ),
        (
            {
                S3_PATH: aws_document("AmazonS3", [("Retrieval-GIR", "", "GB", "free")]),
                DEEP_ARCHIVE_PATH: deep_archive_document(),
            },
            TerminalError,
            "SKU0000 has 'free' for an amount",
        ),
        ({S3_PATH: b"[" + b" " * 3000 + b"]"}, TerminalError, "is larger than 2000 bytes"),
    ],
)
def test_list_is_refused_in_one_sentence_when_it_is_none(
    pages: dict[str, Any], error: type[CloudFluxError], text: str
) -> None:
    limits = {"max_bytes": 2000} if "larger" in text else {}
    with serving(pages) as url, pytest.raises(error, match=text):
        refreshed(url, "aws-us-east-1", limits=limits)


def test_list_of_another_region_is_refused_when_it_holds_no_figure() -> None:
    pages = {
        S3_PATH: s3_document(region="eu-west-1", prefix="EU-"),
        DEEP_ARCHIVE_PATH: deep_archive_document(region="eu-west-1", prefix="EU-"),
    }
    with serving(pages) as url, pytest.raises(TerminalError, match="no figure of aws-us-east-1: is it that of region"):
        refreshed(url, "aws-us-east-1")


def test_next_page_is_not_followed_when_it_leads_to_another_host() -> None:
    pages = {AZURE_PATH: {"Items": azure_items(), "NextPageLink": "http://elsewhere.invalid/api/retail/prices"}}
    with serving(pages) as url, pytest.raises(TerminalError, match="at another host"):
        refreshed(url, "azure-eastus-lrs")


def test_pages_are_given_up_when_they_have_no_end() -> None:
    pages = {AZURE_PATH: lambda host, _: {"Items": [], "NextPageLink": f"{host}{AZURE_PATH}?again"}}
    with serving(pages) as url, pytest.raises(TerminalError, match="has no end"):
        refreshed(url, "azure-eastus-lrs")


def test_plain_http_is_refused_when_a_list_is_downloaded() -> None:
    with pytest.raises(TerminalError, match="over https only"):
        Downloads().json_of("http://127.0.0.1:9/index.json")


@pytest.mark.parametrize(
    ("names", "keys", "text"),
    [
        (["gcs-us-central1"], {}, "Google's price list needs a key"),
        (["aws-mars-1"], {}, "there is no price book 'aws-mars-1'"),
        (["aws-us-east-1"], {"target": BOOKS}, "never overwritten"),
        (["aws-us-east-1"], {"target": BOOKS / "aws-us-east-1.json"}, "never overwritten"),
        (["aws-us-east-1", "azure-eastus-lrs"], {"target": Path("one.json")}, "2 books need a folder"),
        ([], {"files": [Path("list.json")]}, "--from needs --book"),
        (["aws-us-east-1"], {"files": [Path("/nowhere/list.json")]}, "/nowhere/list.json cannot be read"),
    ],
)
def test_refresh_is_refused_before_anything_is_downloaded(names: list[str], keys: dict[str, Any], text: str) -> None:
    with pytest.raises(CloudFluxError, match=text):
        refreshed("http://127.0.0.1:9", *names, **keys)


def test_derived_book_is_not_refreshed_itself(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("schema: cloudflux-price-book/1\nextends: aws-us-east-1\nname: mine\n")
    with pytest.raises(SettingsError, match="is derived from another book"):
        refreshed("http://127.0.0.1:9", str(path))


def test_book_is_not_written_when_the_lists_figures_make_none(tmp_path: Path) -> None:
    # the infrequent tier cannot cost more than the frequent one
    pages = aws_pages(changed={("TimedStorage-INT-IA-ByteHrs", ""): "0.5"})
    with (
        serving(pages) as url,
        pytest.raises(TerminalError, match=r"make no valid price book: classes\.1\.autopilot\.steps"),
    ):
        refreshed(url, "aws-us-east-1", target=tmp_path / "new.json", yes=True)
    assert list(tmp_path.iterdir()) == []
