CREATE TABLE wave (
    name TEXT PRIMARY KEY,
    title TEXT NOT NULL,
    stage TEXT NOT NULL,      -- build validate cutover post done
    health TEXT NOT NULL,     -- idle ok waiting attention failed
    opens_us BIGINT,          -- the cutover window
    closes_us BIGINT,
    time_zone TEXT,
    notice TEXT,
    run TEXT,                 -- the newest run's id
    settings TEXT NOT NULL,   -- JSON object, by the table wave_settings
    version BIGINT NOT NULL,
    created_us BIGINT NOT NULL
);
CREATE TABLE application (
    name TEXT PRIMARY KEY,
    owner TEXT,
    created_us BIGINT NOT NULL
);
CREATE TABLE server (
    name TEXT PRIMARY KEY,
    wave TEXT NOT NULL REFERENCES wave (name),
    application TEXT REFERENCES application (name),
    owner TEXT,
    address TEXT NOT NULL,
    port BIGINT NOT NULL,
    lifecycle TEXT NOT NULL,
    attributes TEXT NOT NULL, -- JSON object, by the table server_attributes
    facts TEXT,               -- JSON of the step prerequisites
    host_key TEXT,            -- pinned: SHA256:…
    instance TEXT,            -- JSON
    version BIGINT NOT NULL,
    created_us BIGINT NOT NULL,
    updated_us BIGINT NOT NULL
);
CREATE INDEX server_wave ON server (wave, name);
CREATE INDEX server_lifecycle ON server (lifecycle);
CREATE TABLE disk (
    server TEXT NOT NULL REFERENCES server (name) ON DELETE CASCADE,
    id TEXT NOT NULL,
    position BIGINT NOT NULL,
    name TEXT NOT NULL,
    size_bytes BIGINT NOT NULL,
    PRIMARY KEY (server, id)
);
-- The replicator's last word on each server; kept apart from server so that a report a second touches one small row.
CREATE TABLE server_replication (
    server TEXT PRIMARY KEY REFERENCES server (name) ON DELETE CASCADE,
    state TEXT NOT NULL,
    error TEXT,
    document TEXT NOT NULL,
    reported_us BIGINT NOT NULL
);
