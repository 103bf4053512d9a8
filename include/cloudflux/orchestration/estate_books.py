"""The price books of the estate's buckets, checked against what the estate says of each bucket."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cloudflux.config import BucketSettings, Estate
    from cloudflux.domain.prices import PriceBook


def books_of(estate: Estate) -> dict[str, PriceBook]:
    """Load the price books of all buckets, by name. Raises ``SettingsError`` as ``book_of`` does."""
    from cloudflux.price_books import load_book

    books = {name: load_book(name) for name in {bucket.price_book for bucket in estate.buckets}}
    for bucket in estate.buckets:
        _check(bucket, books[bucket.price_book])
    return books


def book_of(bucket: BucketSettings) -> PriceBook:
    """Load a bucket's price book.

    Raises ``SettingsError`` naming bucket and book when it is another provider's, or lacks a class that the bucket's
    settings name: nothing would be moved there, and nobody told.
    """
    from cloudflux.price_books import load_book

    book = load_book(bucket.price_book)
    _check(bucket, book)
    return book


def _check(bucket: BucketSettings, book: PriceBook) -> None:
    from cloudflux.domain.errors import SettingsError

    where = f"bucket {bucket.bucket!r} of {bucket.provider}"
    if book.provider != bucket.provider:
        raise SettingsError(
            f"{where}: price_book {bucket.price_book!r} has the prices of {book.provider}: name one of "
            f"{bucket.provider}"
        )
    named = [("allowed_classes", name) for name in bucket.allowed_classes or ()]
    named += [
        (f"pinned_class of {below.prefix!r}", below.pinned_class) for below in bucket.prefixes if below.pinned_class
    ]
    for key, name in named:
        if name not in book.class_names:
            raise SettingsError(
                f"{where}: {key}: price_book {bucket.price_book!r} does not have {name}, it has "
                f"{', '.join(book.class_names)}"
            )
