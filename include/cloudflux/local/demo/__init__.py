"""The demo: a seeded world or a real trace, uploaded to the emulated clouds, and the DAGs' whole path over it."""
