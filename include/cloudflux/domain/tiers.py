"""Providers, the storage classes they offer, and the provider-neutral tier that each belongs to."""

from __future__ import annotations

from enum import StrEnum
from types import MappingProxyType
from typing import Final


class Provider(StrEnum):
    """A cloud whose objects CloudFlux places."""

    AWS = "aws"
    AZURE = "azure"
    GCP = "gcp"


class Tier(StrEnum):
    """Provider-neutral temperature of a storage class."""

    HOT = "hot"
    WARM = "warm"
    COLD = "cold"
    ARCHIVE = "archive"
    AUTO = "auto"


TIER_OF: Final = MappingProxyType(
    {
        Provider.AWS: MappingProxyType(
            {
                "STANDARD": Tier.HOT,
                "STANDARD_IA": Tier.WARM,
                "ONEZONE_IA": Tier.WARM,
                "GLACIER_IR": Tier.COLD,
                "GLACIER": Tier.ARCHIVE,
                "DEEP_ARCHIVE": Tier.ARCHIVE,
                "INTELLIGENT_TIERING": Tier.AUTO,
            }
        ),
        Provider.AZURE: MappingProxyType(
            {"Hot": Tier.HOT, "Cool": Tier.WARM, "Cold": Tier.COLD, "Archive": Tier.ARCHIVE, "Smart": Tier.AUTO}
        ),
        Provider.GCP: MappingProxyType(
            {
                "STANDARD": Tier.HOT,
                "NEARLINE": Tier.WARM,
                "COLDLINE": Tier.COLD,
                "ARCHIVE": Tier.ARCHIVE,
                "AUTOCLASS": Tier.AUTO,
            }
        ),
    }
)
"""Tier by provider and storage class. The classes are the providers' own names."""

STANDARD_CLASS: Final = MappingProxyType({Provider.AWS: "STANDARD", Provider.AZURE: "Hot", Provider.GCP: "STANDARD"})
"""The class that an upload gets when it names none."""


def tier_of(provider: Provider, storage_class: str) -> Tier:
    """Tell the tier of a provider's storage class.

    Raises ``KeyError`` with both names when the provider has no such class.
    """
    try:
        return TIER_OF[provider][storage_class]
    except KeyError:
        raise KeyError(f"{provider} has no storage class {storage_class!r}") from None
