"""The clouds: one protocol, a client for each provider and one in memory; what a provider can do is data."""
