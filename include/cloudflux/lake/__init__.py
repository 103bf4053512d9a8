"""The data plane: Parquet partitions by day and shard, published atomically."""
