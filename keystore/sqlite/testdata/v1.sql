-- A store of version 1 as its program left it. It is frozen: files like this one exist, and every later program must
-- open them.
PRAGMA page_size = 4096;
PRAGMA application_id = 1886079827;
PRAGMA journal_mode = WAL;

CREATE TABLE store (
    only     INTEGER PRIMARY KEY CHECK (only = 1),
    sequence INTEGER NOT NULL CHECK (sequence >= 0)
) STRICT;

INSERT INTO store (only, sequence) VALUES (1, 42);

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

CREATE INDEX entry_value ON entry (name, value);
CREATE INDEX entry_record ON entry (kind, region, account, id);
CREATE UNIQUE INDEX entry_guard ON entry (name, guard);

INSERT INTO record VALUES ('region', 'us-east-1', '', 'us-east-1', 1,
    CAST('{"serial":"5f3a9c0e12345678","label":"pkcs11kms","manufacturer":"SoftHSM project","model":"SoftHSM v2"}' AS BLOB), x'');
INSERT INTO record VALUES ('key', 'us-east-1', '111122223333', '00000000-0000-4000-8000-000000000001', 40,
    CAST('{"state":"Enabled","spec":"HMAC_256","usage":"GENERATE_VERIFY_MAC","origin":"AWS_KMS","description":"tokens & <more>","created":"2026-11-22T10:11:12.345Z","cka_id":"00112233445566778899aabbccddee01"}' AS BLOB), x'');
INSERT INTO record VALUES ('key', 'us-east-1', '111122223333', '00000000-0000-4000-8000-000000000002', 41,
    CAST('{"state":"Disabled","spec":"HMAC_256","usage":"GENERATE_VERIFY_MAC","origin":"AWS_KMS","created":"2026-11-22T10:11:12.345Z","cka_id":"00112233445566778899aabbccddee02"}' AS BLOB), x'');
INSERT INTO record VALUES ('key', 'us-east-1', '111122223333', '00000000-0000-4000-8000-000000000003', 42,
    CAST('{"state":"Creating","spec":"HMAC_256","usage":"GENERATE_VERIFY_MAC","origin":"AWS_KMS","created":"2026-11-22T10:11:12.345Z","cka_id":"00112233445566778899aabbccddee03","instance":"0123456789abcdef0123456789abcdef"}' AS BLOB), x'');
INSERT INTO entry VALUES ('cka-id', 'key', 'us-east-1', '111122223333', '00000000-0000-4000-8000-000000000001',
    '00112233445566778899aabbccddee01', '00112233445566778899aabbccddee01');
INSERT INTO entry VALUES ('cka-id', 'key', 'us-east-1', '111122223333', '00000000-0000-4000-8000-000000000002',
    '00112233445566778899aabbccddee02', '00112233445566778899aabbccddee02');
INSERT INTO entry VALUES ('cka-id', 'key', 'us-east-1', '111122223333', '00000000-0000-4000-8000-000000000003',
    '00112233445566778899aabbccddee03', '00112233445566778899aabbccddee03');
INSERT INTO entry VALUES ('unfinished', 'key', 'us-east-1', '111122223333', '00000000-0000-4000-8000-000000000003',
    '0123456789abcdef0123456789abcdef', NULL);

PRAGMA user_version = 1;
