"""W1 in DuckDB: the posts of a file once each, their hashtags, and how often each is used.

Prints what it counted as one JSON line. Takes the file and the number of threads.
"""

import json
import sys

import duckdb

path, threads = sys.argv[1], int(sys.argv[2])
db = duckdb.connect(config={"threads": threads})
db.execute(
    """
    CREATE TEMP TABLE post AS
    SELECT any_value(caption) AS caption, count(*) AS copies
    FROM read_ndjson(?, columns = {event_id: 'VARCHAR', caption: 'VARCHAR'})
    GROUP BY event_id
    """,
    [path],
)
# A tag counts once a post. The signs and characters are those of the tag rules, as near as a
# regular expression of one line comes to them.
db.execute(
    r"""
    CREATE TEMP TABLE tag AS
    SELECT tag, count(*) AS uses
    FROM (
        SELECT unnest(list_distinct(
            regexp_extract_all(lower(caption), '[#＃]([\pL\pM\pN_]+)', 1)
        )) AS tag
        FROM post
    )
    GROUP BY tag
    """
)
top = db.execute("SELECT tag, uses FROM tag ORDER BY uses DESC, tag LIMIT 100").fetchall()
events, records = db.execute("SELECT count(*), sum(copies) FROM post").fetchone()
tags, uses, squares = db.execute(
    "SELECT count(*), sum(uses), sum(uses * uses) FROM tag"
).fetchone()
print(
    json.dumps(
        {
            "version": duckdb.__version__,
            "events": events,
            "duplicates": int(records) - events,
            "tags": tags,
            "uses": int(uses),
            "squares": int(squares),
            "top": top,
        }
    )
)
