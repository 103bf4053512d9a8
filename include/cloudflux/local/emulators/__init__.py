"""The object stores of the embedded stack: servers on loopback that speak the providers' own protocols."""
