-- Names the records that were put or deleted last, in order, for those who keep records in memory. The stamp tells a row from
-- the one with its number in a file that went another way: a copy, or a restored backup.
CREATE TABLE change (
    number  INTEGER PRIMARY KEY, -- one more than the greatest before
    stamp   BLOB    NOT NULL CHECK (length(stamp) = 8),
    kind    TEXT    NOT NULL,
    region  TEXT    NOT NULL,
    account TEXT    NOT NULL,
    id      TEXT    NOT NULL
) STRICT;

-- A row before all changes, so that there always is one to ask from. It names no record.
INSERT INTO change (stamp, kind, region, account, id) VALUES (randomblob(8), '', '', '', '');

-- Triggers, so that nothing can change a record and leave it out, neither a program nor a person. (A record that is put again
-- is inserted: INSERT OR REPLACE.)
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

-- The newest 4096 are kept. Whoever asks from before them reads all records anew.
CREATE TRIGGER change_bound AFTER INSERT ON change BEGIN
    DELETE FROM change WHERE number <= NEW.number - 4096;
END;
