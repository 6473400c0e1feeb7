-- The factory's settings (one document), and the last word of each replicator.
CREATE TABLE factory_settings (
    id BIGINT PRIMARY KEY,
    version BIGINT NOT NULL,
    document TEXT NOT NULL
);
CREATE TABLE replicator_status (
    name TEXT PRIMARY KEY,
    seen_us BIGINT NOT NULL,
    status TEXT NOT NULL
);
CREATE TABLE backup (
    path TEXT PRIMARY KEY,
    at_us BIGINT NOT NULL,
    actor TEXT NOT NULL,
    size_bytes BIGINT NOT NULL
);
CREATE TABLE factory_beat (
    id BIGINT PRIMARY KEY,
    at_us BIGINT NOT NULL
);
