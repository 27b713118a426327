-- The number of the last commit. Records carry the number of the commit that wrote them, so it never goes back.
CREATE TABLE store (
    only     INTEGER PRIMARY KEY CHECK (only = 1),
    sequence INTEGER NOT NULL CHECK (sequence >= 0)
) STRICT;

INSERT INTO store (only, sequence) VALUES (1, 0);

CREATE TABLE record (
    kind    TEXT    NOT NULL,
    region  TEXT    NOT NULL,
    account TEXT    NOT NULL,
    id      TEXT    NOT NULL,
    version INTEGER NOT NULL CHECK (version > 0),
    value   BLOB    NOT NULL,
    seal    BLOB    NOT NULL,
    PRIMARY KEY (kind, region, account, id)
) STRICT, WITHOUT ROWID;

-- The primary key gives one entry per record and index, and every record of an index in the order of records. The guard
-- repeats the value in an index whose values are unique and is NULL in others: two NULLs are no duplicates.
CREATE TABLE entry (
    name    TEXT    NOT NULL,
    kind    TEXT    NOT NULL,
    region  TEXT    NOT NULL,
    account TEXT    NOT NULL,
    id      TEXT    NOT NULL,
    value   TEXT    NOT NULL CHECK (value <> ''),
    guard   TEXT    CHECK (guard = value),
    PRIMARY KEY (name, kind, region, account, id),
    FOREIGN KEY (kind, region, account, id) REFERENCES record (kind, region, account, id)
) STRICT, WITHOUT ROWID;

-- The columns of the primary key follow by themselves, so the records of one value come in the order of records too.
CREATE INDEX entry_value ON entry (name, value);
CREATE INDEX entry_record ON entry (kind, region, account, id);
CREATE UNIQUE INDEX entry_guard ON entry (name, guard);
