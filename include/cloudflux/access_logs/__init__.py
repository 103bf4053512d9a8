"""Access logs in the providers' own formats, one module per format, parsed in columns.

Each module offers ``parse_many(files, excluded_agents)`` for a chunk of files of its format, and ``parse`` for one.
A line becomes an access event, is valid but no use of an object (a listing, a HEAD, a failed request), or goes into
quarantine with its reason. No line, whatever is in it, raises.
"""
