"""The Kafka topic of ingested files: its message schema, a bounded reader, and its lag."""
