-- A store of version 8 as its program left it. It is frozen: files like this one exist, and every later program must
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

CREATE TABLE change (
    number  INTEGER PRIMARY KEY, -- one more than the greatest before
    stamp   BLOB    NOT NULL CHECK (length(stamp) = 8),
    kind    TEXT    NOT NULL,
    region  TEXT    NOT NULL,
    account TEXT    NOT NULL,
    id      TEXT    NOT NULL
) STRICT;

CREATE TRIGGER record_put AFTER INSERT ON record BEGIN
    INSERT INTO change (stamp, kind, region, account, id) VALUES (randomblob(8), NEW.kind, NEW.region, NEW.account, NEW.id);
END;

CREATE TRIGGER record_edited AFTER UPDATE ON record BEGIN
    INSERT INTO change (stamp, kind, region, account, id) VALUES (randomblob(8), OLD.kind, OLD.region, OLD.account, OLD.id);
    INSERT INTO change (stamp, kind, region, account, id) VALUES (randomblob(8), NEW.kind, NEW.region, NEW.account, NEW.id);
END;

CREATE TRIGGER record_deleted AFTER DELETE ON record BEGIN
    INSERT INTO change (stamp, kind, region, account, id) VALUES (randomblob(8), OLD.kind, OLD.region, OLD.account, OLD.id);
END;

CREATE TRIGGER change_bound AFTER INSERT ON change BEGIN
    DELETE FROM change WHERE number <= NEW.number - 4096;
END;

INSERT INTO change VALUES (4000, x'0011223344556677', 'key', 'us-east-1', '111122223333', '00000000-0000-4000-8000-000000000009');

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

INSERT INTO record VALUES ('key', 'eu-west-1', '111122223333', '00000000-0000-4000-8000-000000000004', 42,
    CAST('{"state":"Enabled","spec":"ECC_NIST_P256","usage":"SIGN_VERIFY","origin":"AWS_KMS","created":"2026-11-29T10:11:12.345Z","cka_id":"00112233445566778899aabbccddee04","aliases":1,"tags":[{"k":"team","v":"web"}],"policy":"{}","adopted":"keep","public_key":"3059301306072a8648ce3d020106082a8648ce3d030107034200046b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c2964fe342e2fe1a7f9b8ee7eb4a7c0f9e162bce33576b315ececbb6406837bf51f5"}' AS BLOB), x'');
INSERT INTO record VALUES ('alias', 'eu-west-1', '111122223333', 'alias/tokens', 42,
    CAST('{"target":"00000000-0000-4000-8000-000000000004","created":"2026-11-29T10:11:12.345Z","updated":"2026-11-29T10:11:12.345Z"}' AS BLOB), x'');
INSERT INTO record VALUES ('principal', '', '111122223333', 'AROAABCDEFGHIJKLMNOPQ', 42,
    CAST('{"type":"role","name":"Signer","path":"/","created":"2026-11-29T10:11:12Z","description":"signs","trust":"{}","access_keys":1}' AS BLOB), x'');
INSERT INTO record VALUES ('access-key', '', '', 'AKIAABCDEFGHIJKLMNOP', 42,
    CAST('{"account":"111122223333","owner":"AROAABCDEFGHIJKLMNOPQ","status":"Active","created":"2026-11-29T10:11:12Z"}' AS BLOB), x'');
INSERT INTO record VALUES ('counter', 'eu-west-1', '111122223333', 'keys', 42, CAST('{"n":1}' AS BLOB), x'');
INSERT INTO entry VALUES ('cka-id', 'key', 'eu-west-1', '111122223333', '00000000-0000-4000-8000-000000000004',
    '00112233445566778899aabbccddee04', '00112233445566778899aabbccddee04');
INSERT INTO entry VALUES ('alias-target', 'alias', 'eu-west-1', '111122223333', 'alias/tokens',
    'eu-west-1/111122223333/00000000-0000-4000-8000-000000000004', NULL);
INSERT INTO entry VALUES ('principal-name', 'principal', '', '111122223333', 'AROAABCDEFGHIJKLMNOPQ',
    '111122223333/role/signer', '111122223333/role/signer');
INSERT INTO entry VALUES ('access-key-owner', 'access-key', '', '', 'AKIAABCDEFGHIJKLMNOP',
    '111122223333/AROAABCDEFGHIJKLMNOPQ', NULL);

INSERT INTO record VALUES ('region', 'eu-west-1', '', 'eu-west-1', 42,
    CAST('{"serial":"123","label":"kms","manufacturer":"IBM","model":"Soft","retired":"2026-11-30T01:02:03Z","binding":{"cka_id":"00112233445566778899aabbccddee05","spec":"HMAC_256","proof":"000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"}}' AS BLOB), x'');
INSERT INTO record VALUES ('key', 'eu-west-1', '', 'pkcs11kms/service/binding', 42,
    CAST('{"state":"Enabled","spec":"HMAC_256","usage":"GENERATE_VERIFY_MAC","origin":"AWS_KMS","created":"2026-11-30T01:02:03Z","cka_id":"00112233445566778899aabbccddee05"}' AS BLOB), x'');
INSERT INTO record VALUES ('region', 'ap-south-1', '', 'ap-south-1', 42,
    CAST('{"serial":"1","label":"signer","manufacturer":"m","model":"n","unable":"2.17"}' AS BLOB), x'');
INSERT INTO entry VALUES ('cka-id', 'key', 'eu-west-1', '', 'pkcs11kms/service/binding',
    '00112233445566778899aabbccddee05', '00112233445566778899aabbccddee05');

INSERT INTO record VALUES ('key', 'eu-west-1', '111122223333', '00000000-0000-4000-8000-000000000006', 42,
    CAST('{"state":"Enabled","spec":"HMAC_256","usage":"GENERATE_VERIFY_MAC","origin":"AWS_KMS","created":"2026-11-30T01:02:03Z","cka_id":"00112233445566778899aabbccddee06","adopted":"destroy","label":"sessions"}' AS BLOB), x'');
INSERT INTO record VALUES ('key', 'eu-west-1', '', 'pkcs11kms/service/access-keys', 42,
    CAST('{"state":"Enabled","spec":"HMAC_256","usage":"GENERATE_VERIFY_MAC","origin":"AWS_KMS","created":"2026-11-30T01:02:03Z","cka_id":"00112233445566778899aabbccddee07","proof":"000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"}' AS BLOB), x'');
INSERT INTO entry VALUES ('cka-id', 'key', 'eu-west-1', '111122223333', '00000000-0000-4000-8000-000000000006',
    '00112233445566778899aabbccddee06', '00112233445566778899aabbccddee06');
INSERT INTO entry VALUES ('cka-id', 'key', 'eu-west-1', '', 'pkcs11kms/service/access-keys',
    '00112233445566778899aabbccddee07', '00112233445566778899aabbccddee07');

INSERT INTO record VALUES ('region', 'sa-east-1', '', 'sa-east-1', 42,
    CAST('{"serial":"7","label":"hsm","manufacturer":"Yubico (www.yubico.com)","model":"YubiHSM","learnt":{"at":"2026-11-30T01:02:03Z","manufacturer":"Yubico (www.yubico.com)","model":"YubiHSM","firmware":"2.4","library":"Yubico PKCS#11 Library 2.60","no_session_keys":true,"made":["HMAC_256"],"gaps":[{"key_spec":"HMAC_224","what":"use","func":"C_SignInit","rv":112,"at":"2026-11-30T01:02:03Z"}]}}' AS BLOB), x'');

INSERT INTO record VALUES ('seals', '', '', 'records', 42,
    CAST('{"store":"000102030405060708090a0b0c0d0e0f","epoch":2,"region":"eu-west-1","cka_id":"00112233445566778899aabbccddee08","spec":"HMAC_256","previous":{"epoch":1,"region":"eu-west-1","cka_id":"00112233445566778899aabbccddee09","spec":"HMAC_256"}}' AS BLOB), x'01');

INSERT INTO record VALUES ('key-use', 'us-east-1', '111122223333', '00000000-0000-4000-8000-000000000001', 42,
    CAST('{"operation":"GenerateMac","at":"2026-11-30T22:23:24Z","event":"0f5fabe8-6a8b-4b4c-8a4c-2f9c6f6c7a11","request":"6b2f3a51-9b0f-4e1b-8a55-1a2b3c4d5e6f"}' AS BLOB), x'02');
INSERT INTO record VALUES ('key-use', 'eu-west-1', '111122223333', '00000000-0000-4000-8000-000000000004', 42,
    CAST('{"operation":"Sign","at":"2026-11-30T22:23:24Z","event":""}' AS BLOB), x'03');
INSERT INTO record VALUES ('access-key', '', '', 'AKIAABCDEFGHIJKLMNO2', 42,
    CAST('{"account":"111122223333","owner":"AROAABCDEFGHIJKLMNOPQ","status":"Active","created":"2026-11-30T22:23:24Z","epoch":2}' AS BLOB), x'04');
INSERT INTO entry VALUES ('access-key-owner', 'access-key', '', '', 'AKIAABCDEFGHIJKLMNO2',
    '111122223333/AROAABCDEFGHIJKLMNOPQ', NULL);

PRAGMA user_version = 8;
