"""Who is excluded: by user agent, by requester, whatever the letter case."""

from __future__ import annotations

from pathlib import Path

import pytest

from cloudflux.config import DEFAULT_EXCLUDED_AGENTS, DEFAULT_EXCLUDED_REQUESTERS, Estate, load_estate
from cloudflux.domain.exclusions import Exclusions

MACIE = "arn:aws:sts::111122223333:assumed-role/AWSServiceRoleForAmazonMacie/AmazonMacieSession"


@pytest.mark.parametrize(
    ("agent", "requester", "excluded"),
    [
        ("CloudFlux/0.2", None, True),
        ("APN/1.0 Veeam/1.0 Backup/12.1", "arn:aws:iam::111122223333:user/backup", True),
        ("aws-sdk-java/2.20", MACIE, True),
        ("aws-sdk-java/2.20", MACIE.lower(), True),
        ("-", "arn:aws:sts::111122223333:assumed-role/any/s3-replication", True),
        ("", "project-12@storage-transfer-service.iam.gserviceaccount.com", True),
        ("rclone/v1.68", "arn:aws:iam::111122223333:user/ann", False),
        ("aws-cli/2.31", None, False),
        (None, None, False),
    ],
)
def test_a_request_is_excluded_when_the_default_lists_name_it(
    agent: str | None, requester: str | None, excluded: bool
) -> None:
    assert Estate().exclusions.excludes(agent, requester) is excluded


def test_an_empty_pattern_excludes_nobody() -> None:
    assert not Exclusions(agents=("",), requesters=("",)).excludes("anything", "anyone")


def test_lists_in_the_estate_file_replace_the_defaults_each_on_its_own(tmp_path: Path) -> None:
    file = tmp_path / "estate.yaml"
    file.write_text("excluded_requesters: [assumed-role/acme-backup/]\n")
    estate = load_estate(file)
    assert estate.exclusions == Exclusions(DEFAULT_EXCLUDED_AGENTS, ("assumed-role/acme-backup/",))
    assert not estate.exclusions.excludes(None, MACIE)
    assert len(set(DEFAULT_EXCLUDED_REQUESTERS)) == len(DEFAULT_EXCLUDED_REQUESTERS)
