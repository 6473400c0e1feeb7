-- To which replicator a server replicates. While it moves, its copy is the old one's until a first point is committed at the new one.
CREATE TABLE placement (
    server TEXT PRIMARY KEY REFERENCES server (name) ON DELETE CASCADE,
    replicator TEXT NOT NULL, -- whose points are launched
    beside TEXT NOT NULL,     -- the label of runners that stand beside it: replicator:NAME; '' where replicator alone is enough
    target TEXT,              -- where it moves to
    why TEXT NOT NULL,        -- how it was chosen, in words
    since_us BIGINT NOT NULL, -- placed, or moving, since
    seen_at TEXT NOT NULL,    -- which replicator last had its agent; '' none yet
    seen_us BIGINT NOT NULL
);
CREATE INDEX placement_replicator ON placement (replicator);
-- Replicators that take no more servers.
CREATE TABLE replicator_drained (
    name TEXT PRIMARY KEY,
    actor TEXT NOT NULL,
    since_us BIGINT NOT NULL
);
