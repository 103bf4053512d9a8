"""Price books: provider prices and rules as data files with their sources, and the loader that checks them."""

from cloudflux.price_books.loader import available_books, load_book

__all__ = ["available_books", "load_book"]
