"""Books that are derived from another: negotiated discounts, and figures of one's own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from cloudflux.domain.errors import SettingsError
from cloudflux.price_books import load_book
from cloudflux.price_books.loader import BOOKS, read_book

CONTRACT = {"title": "contract 4711", "as_of": "2026-10", "seen_on": "2026-11-01"}
MINE = {"schema": "cloudflux-price-book/1", "extends": "aws-us-east-1", "name": "acme", "sources": {"C": CONTRACT}}


def derived(folder, file_name="acme.yaml", **keys):
    path = folder / file_name
    content = MINE | keys
    path.write_text(json.dumps(content) if file_name.endswith(".json") else yaml.safe_dump(content))
    return path


def usd(amount, per="GiB-month"):
    return {"usd": amount, "per": per, "src": "C"}


def test_all_is_as_in_the_base_when_a_derivation_changes_nothing(tmp_path):
    base, book = load_book("aws-us-east-1"), load_book(derived(tmp_path, region="us-east-1 (acme)"))
    assert (book.name, book.region, book.seen_on) == ("acme", "us-east-1 (acme)", base.seen_on)
    assert book.classes == base.classes
    assert (book.client_move_up, book.fees, book.list_usd) == (base.client_move_up, base.fees, base.list_usd)


@pytest.mark.parametrize("file_name", ["acme.json", "acme.yml"])
def test_closest_discount_holds_when_several_fit(tmp_path, file_name):
    base = load_book("aws-us-east-1")
    discounts = {"*": 0.1, "*.read": 0.2, "GLACIER_IR": 0.5, "GLACIER_IR.read": 0.3, "STANDARD.storage": 0.25}
    book = load_book(derived(tmp_path, file_name, discounts=discounts))
    of, was = book.prices_of, base.prices_of
    assert of("STANDARD").storage_usd_gib_month == pytest.approx(0.023 * 0.75)
    assert of("STANDARD").write_usd == pytest.approx(was("STANDARD").write_usd * 0.9)
    assert of("STANDARD").read_usd == pytest.approx(was("STANDARD").read_usd * 0.8)
    assert of("GLACIER_IR").storage_usd_gib_month == pytest.approx(0.002)
    assert of("GLACIER_IR").read_usd == pytest.approx(1e-5 * 0.7)
    assert of("GLACIER_IR").transition_in_usd == pytest.approx(2e-5 * 0.5)
    assert of("STANDARD_IA").read_usd == pytest.approx(1e-6 * 0.8)
    assert book.list_usd == pytest.approx(5e-6 * 0.9)
    assert [of(c.storage_class).min_days for c in base.classes] == [c.min_days for c in base.classes]


@pytest.mark.parametrize(
    ("tiers", "steps"),
    [
        (
            {"Archive Access": 120, "Deep Archive Access": 400},
            [(30, 0.0125), (90, 0.004), (120, 0.0036), (400, 0.00099)],
        ),
        ({"Deep Archive Access": 180}, [(30, 0.0125), (90, 0.004), (180, 0.00099)]),
        ({"Archive Access": 90}, [(30, 0.0125), (90, 0.0036)]),
    ],
)
def test_archive_tiers_are_switched_on_for_the_days_that_are_stated(tmp_path, tiers, steps):
    prices = load_book(derived(tmp_path, archive_tiers={"INTELLIGENT_TIERING": tiers})).prices_of("INTELLIGENT_TIERING")
    assert [(step.idle_days, step.storage_usd_gib_month) for step in prices.autopilot.steps] == steps
    assert prices.latency == "hours"
    speeds = ["standard", "bulk"] if "Deep Archive Access" in tiers else ["expedited", "standard", "bulk"]
    assert [option.name for option in prices.restores] == speeds


@pytest.mark.parametrize(
    ("tiers", "problem"),
    [
        (
            {"STANDARD": {"Archive Access": 90}},
            "archive_tiers.STANDARD: there is no class of this name with archive tie",
        ),
        (
            {"INTELLIGENT_TIERING": {"Archive": 90}},
            "archive_tiers.INTELLIGENT_TIERING.Archive: there is no such tier, th",
        ),
        (
            {"INTELLIGENT_TIERING": {"Archive Access": 89}},
            "archive_tiers.INTELLIGENT_TIERING.Archive Access: it is 89, and can be set from 90 to 730",
        ),
        (
            {"INTELLIGENT_TIERING": {"Archive Access": 200, "Deep Archive Access": 180}},
            "archive_tiers.INTELLIGENT_TIERING.Deep Archive Access: Deep Archive Access must begin later than Archive",
        ),
        (
            {"INTELLIGENT_TIERING": {"Archive Access": "soon"}},
            "archive_tiers.INTELLIGENT_TIERING.Archive Access: Input sh",
        ),
    ],
)
def test_archive_tiers_that_cannot_be_are_refused_by_their_key(tmp_path, tiers, problem):
    with pytest.raises(SettingsError) as caught:
        load_book(derived(tmp_path, archive_tiers=tiers))
    assert problem in str(caught.value)


def test_a_book_of_google_has_no_archive_tiers_to_switch_on(tmp_path):
    path = derived(tmp_path, extends="gcs-us-central1", archive_tiers={"AUTOCLASS": {"Archive Access": 90}})
    with pytest.raises(SettingsError, match=r"archive_tiers.AUTOCLASS: .* there is none"):
        load_book(path)


def test_days_of_soft_delete_are_stated_among_the_moves(tmp_path):
    moves = {"soft_delete_days": {"value": 30, "src": "C"}}
    assert load_book(derived(tmp_path, extends="gcs-us-multi", moves=moves)).soft_delete_days == 30


def test_bands_steps_and_restores_are_discounted_with_the_price_that_they_belong_to(tmp_path):
    discounts = {"*.storage": 0.5, "*.retrieval": 0.1, "*.restore_request": 0.2, "*.monitoring": 0.4}
    book, base = load_book(derived(tmp_path, discounts=discounts)), load_book("aws-us-east-1")
    assert [band.usd_gib_month for band in book.prices_of("STANDARD").storage_bands] == pytest.approx(
        [0.0115, 0.011, 0.0105]
    )
    autopilot, was = (b.prices_of("INTELLIGENT_TIERING").autopilot for b in (book, base))
    assert [step.storage_usd_gib_month for step in autopilot.steps] == [0.00625, 0.002]
    assert [step.storage_usd_gib_month for step in autopilot.archive_steps] == [0.0018, 0.000495]
    assert autopilot.monitoring_usd_month == pytest.approx(was.monitoring_usd_month * 0.6)
    expedited = book.prices_of("GLACIER").restores[0]
    assert (expedited.request_usd, expedited.retrieval_usd_gib) == (pytest.approx(0.008), pytest.approx(0.027))
    assert book.prices_of("GLACIER").restore_request_usd == pytest.approx(0.00004)


def test_discounted_figures_cite_the_discount_when_read(tmp_path):
    book = read_book(derived(tmp_path, discounts={"STANDARD": 0.1}, seen_on="2026-11-20"))
    standard, infrequent = book.classes[0], book.classes[2]
    assert standard.write.src == ("A1", "discounts")
    assert infrequent.write.src == ("A1",)
    assert book.sources["discounts"].title == "discounts of acme on aws-us-east-1"
    assert str(book.sources["discounts"].seen_on) == "2026-11-20"
    own = read_book(derived(tmp_path, discounts={"STANDARD": 0.1}, sources={"discounts": CONTRACT}))
    assert own.sources["discounts"].title == "contract 4711"


def test_overrides_replace_figures_and_are_not_discounted(tmp_path):
    book = load_book(
        derived(
            tmp_path,
            discounts={"*": 0.5},
            overrides={
                "STANDARD": {"storage": usd(0.02)},
                "GLACIER": {"retrieval": usd(0.008, "GiB"), "min_days": {"value": 60, "src": "C"}},
                "INTELLIGENT_TIERING": {"autopilot": {"monitoring": usd(0.002, "1000 objects-month")}},
            },
            moves={"lifecycle_min_bytes": {"value": 0, "src": "C"}},
            notes=[{"text": "negotiated", "src": "C"}],
        )
    )
    assert book.prices_of("STANDARD").storage_usd_gib_month == 0.02
    assert book.prices_of("STANDARD").storage_bands == ()  # one negotiated price has no bands
    glacier = book.prices_of("GLACIER")
    assert (glacier.retrieval_usd_gib, glacier.min_days) == (0.008, 60)
    assert [option.retrieval_usd_gib for option in glacier.restores] == [0.015, 0.008, 0]
    autopilot = book.prices_of("INTELLIGENT_TIERING").autopilot
    assert autopilot.monitoring_usd_month == pytest.approx(0.002 / 1000)
    assert autopilot.steps[0].storage_usd_gib_month == 0.00625
    assert book.lifecycle_min_bytes == 0


def test_autopilot_follows_the_classes_on_whose_meters_it_is_billed(tmp_path):
    path = derived(
        tmp_path,
        extends="azure-eastus-lrs",
        discounts={"Cool.storage": 0.5, "Hot.storage": 0.1},
        overrides={
            "Cold": {"storage": usd(0.003)},
            "Hot": {"read": usd(0.002, "10000 requests")},
            "Cool": {"write": usd(0.08, "10000 requests")},
        },
    )
    book = load_book(path)
    smart, hot = book.prices_of("Smart"), book.prices_of("Hot")
    assert (smart.storage_usd_gib_month, smart.read_usd) == (hot.storage_usd_gib_month, hot.read_usd)
    assert smart.storage_usd_gib_month == pytest.approx(0.01872)
    assert smart.storage_bands == hot.storage_bands
    assert [step.storage_usd_gib_month for step in smart.autopilot.steps] == [0.0076, 0.003]
    assert smart.autopilot.leave_usd == pytest.approx(0.08 / 10_000)
    assert "C" in read_book(path).classes[1].autopilot.steps[1].storage.src
    assert smart.write_usd == hot.write_usd


def test_autopilot_keeps_its_own_price_when_the_derivation_states_one(tmp_path):
    discounts = {"AUTOCLASS.storage": 0.2, "STANDARD.storage": 0.1, "STANDARD.write": 0.5}
    book = load_book(derived(tmp_path, extends="gcs-us-central1", discounts=discounts))
    auto = book.prices_of("AUTOCLASS")
    assert auto.storage_usd_gib_month == pytest.approx(0.016)
    assert auto.autopilot.steps[0].storage_usd_gib_month == pytest.approx(0.008)
    assert auto.autopilot.promotion_usd == pytest.approx(0.0025 / 1000)


def test_autopilot_keeps_its_price_when_the_base_states_another_on_purpose(tmp_path):
    content = json.loads((BOOKS / "gcs-us-central1.json").read_text()) | {"name": "base"}
    content["classes"][1]["autopilot"]["steps"][0]["storage"]["usd"] = 0.009
    (tmp_path / "base.json").write_text(json.dumps(content))
    book = load_book(derived(tmp_path, extends="base.json", discounts={"NEARLINE": 0.5, "COLDLINE": 0.5}))
    steps = book.prices_of("AUTOCLASS").autopilot.steps
    assert [step.storage_usd_gib_month for step in steps] == [0.009, 0.002, 0.0012]


def test_base_may_be_a_file_beside_the_derivation(tmp_path):
    derived(tmp_path, "base.yaml", discounts={"*": 0.5})
    folder = tmp_path / "team"
    folder.mkdir()
    book = load_book(derived(folder, name="team", extends="../base.yaml", discounts={"*": 0.1}))
    assert book.prices_of("STANDARD").storage_usd_gib_month == pytest.approx(0.023 * 0.5 * 0.9)


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        ({"discounts": {"STANDRD": 0.1}}, "discounts.STANDRD: there is no class 'STANDRD'"),
        ({"discounts": {"STANDARD.store": 0.1}}, "discounts.STANDARD.store: there is no price 'store'"),
        ({"discounts": {"STANDARD.monitoring": 0.1}}, "discounts.STANDARD.monitoring: STANDARD has no such price"),
        ({"discounts": {"*": 10}}, "discounts.*: Input should be less than 1"),
        ({"discounts": {"*": -0.1}}, "discounts.*: Input should be greater than or equal to 0"),
        ({"discounts": {"*": "much"}}, "discounts.*: "),
        ({"overrides": {"GLACIR": {}}}, "overrides.GLACIR: there is no such class"),
        ({"overrides": {"GLACIER": {"storrage": usd(1)}}}, "overrides.GLACIER.storrage: there is no such key"),
        ({"overrides": {"GLACIER": {"storage_class": "X"}}}, "overrides.GLACIER.storage_class: there is no such key"),
        ({"overrides": {"GLACIER": {"storage": usd(-1)}}}, "overrides.GLACIER.storage.usd: "),
        ({"overrides": {"GLACIER": {"storage": usd(1, "GiB")}}}, "overrides.GLACIER.storage.per: 'GiB'"),
        ({"overrides": {"GLACIER": {"storage": {"usd": 1, "per": "GiB-month"}}}}, "overrides.GLACIER.storage.src: "),
        ({"overrides": {"GLACIER": {"storage": usd(1) | {"src": "Q"}}}}, "overrides.GLACIER.storage.src: there is no"),
        ({"overrides": {"INTELLIGENT_TIERING": {"autopilot": {"fee": 1}}}}, "INTELLIGENT_TIERING.autopilot.fee"),
        (
            {"overrides": {"INTELLIGENT_TIERING": {"storage": usd(0.001)}}},
            "INTELLIGENT_TIERING.autopilot.steps: storage prices must fall",
        ),
        ({"moves": {"lifecycle_bytes": 1}}, "moves.lifecycle_bytes: there is no such key"),
        ({"sources": {"A1": CONTRACT}}, "sources.A1: aws-us-east-1 has another source of this name"),
        ({"name": "aws-us-east-1"}, "name: 'aws-us-east-1' is the base's name"),
        ({"name": ""}, "name: "),
        ({"extends": "aws-mars-1"}, "extends: there is no price book 'aws-mars-1'"),
        ({"extends": "acme.yaml"}, "extends: acme.yaml is derived from this book itself"),
        ({"provider": "aws"}, "provider: Extra inputs are not permitted"),
        ({"discount": {"*": 0.1}}, "discount: Extra inputs are not permitted"),
        ({"schema": "cloudflux-price-book/2"}, "schema: "),
    ],
)
def test_bad_derivation_names_file_and_key_when_loaded(tmp_path, keys, text):
    path = derived(tmp_path, **keys)
    with pytest.raises(SettingsError) as caught:
        load_book(path)
    assert str(path) in str(caught.value)
    assert text in str(caught.value)


def test_bad_base_is_named_when_the_derivation_is_loaded(tmp_path):
    (tmp_path / "base.json").write_text("{}")
    with pytest.raises(SettingsError, match=r"base\.json: schema"):
        load_book(derived(tmp_path, extends="base.json"))


def test_example_of_the_documentation_is_a_book_when_written_down(tmp_path):
    text = (Path(__file__).parents[3] / "docs" / "price-books.md").read_text()
    path = tmp_path / "acme.yaml"
    path.write_text(text.partition("```yaml\n")[2].partition("```")[0])
    book, base = load_book(path), load_book("aws-us-east-1")
    assert book.prices_of("STANDARD").storage_usd_gib_month == pytest.approx(0.023 * 0.75)
    assert book.prices_of("STANDARD").write_usd == pytest.approx(base.prices_of("STANDARD").write_usd * 0.9)
    assert book.prices_of("GLACIER_IR").retrieval_usd_gib == pytest.approx(0.03 * 0.85)
    assert book.prices_of("GLACIER").retrieval_usd_gib == pytest.approx(0.008)
    assert book.prices_of("STANDARD_IA").storage_usd_gib_month == 0.0105
    assert book.lifecycle_min_bytes == 0
