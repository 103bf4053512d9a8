import duckdb
import pyarrow as pa
import pytest

from cloudflux.lake.shards import SHARD_SQL, shard_of, shards_of

PINNED = [9, 12, 14, 12, 9, 4, 15, 2]

OBJECTS = pa.table(
    {
        "provider": ["aws", "azure", "gcp", "aws", "aws"],
        "bucket": ["b", "b", "b", "bc", "b"],
        "key": ["k", "k", "k", "", "ключ/é 集"],
    }
)


@pytest.mark.parametrize("shards", [1, 4, 7, 4096])
def test_shards_agree_when_computed_in_python_arrow_and_sql(shards: int) -> None:
    one_by_one = [shard_of(row["provider"], row["bucket"], row["key"], shards) for row in OBJECTS.to_pylist()]
    with duckdb.connect() as connection:
        connection.register("objects", OBJECTS)
        in_sql = [
            row[0] for row in connection.execute(f"SELECT {SHARD_SQL.format(shards=shards)} FROM objects").fetchall()
        ]
    assert shards_of(OBJECTS, shards).tolist() == one_by_one == in_sql


def test_shard_stays_the_same_when_the_code_changes() -> None:
    # Published partitions depend on these numbers: changing the function would split objects' histories.
    assert [shard_of("aws", "bucket", f"key-{n}", 16) for n in range(8)] == PINNED


def test_shard_differs_when_the_separator_moves() -> None:
    assert shard_of("aws", "ab", "c", 4096) != shard_of("aws", "a", "bc", 4096)
