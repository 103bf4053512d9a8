"""CloudFlux: every object in the storage class that costs least and is still fast enough."""

__version__ = "0.1.0"
