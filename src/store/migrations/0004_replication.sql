-- A person's last order to a server's replication: its replicator hears it with the settings, and carries out each once.
CREATE TABLE replication_order (
    server TEXT PRIMARY KEY REFERENCES server (name),
    paused BIGINT NOT NULL, -- 1: pause, 0: resume
    actor TEXT NOT NULL,
    at_us BIGINT NOT NULL   -- rises with each order of the server
);
