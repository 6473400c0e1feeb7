-- Which replicator keeps a second copy of a server's points.
CREATE TABLE second_copy (
    server TEXT PRIMARY KEY REFERENCES server (name) ON DELETE CASCADE,
    replicator TEXT NOT NULL, -- '': one is wanted, and none can take it
    why TEXT NOT NULL,        -- how it was chosen, or why none is, in words
    since_us BIGINT NOT NULL
);
CREATE INDEX second_copy_replicator ON second_copy (replicator);
