"""One reader per inventory report format: its manifest, and its rows in the columns of the lake's inventory.

A reader is a module with the functions of `formats.ReportFormat`, found by its format's name. What a report must have
is checked, and what is new in it is noticed. `tables` reads CSV, ORC and Parquet in batches, `rows` maps a batch.
"""
