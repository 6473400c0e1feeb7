-- workflow/: runs, their tasks, attempts and what came of them. Ids are text ("r1", "t17"); numbers grow and give the order.
CREATE TABLE workflow_number (
    kind TEXT PRIMARY KEY,
    last BIGINT NOT NULL
);
INSERT INTO workflow_number (kind, last) VALUES ('run', 0), ('task', 0);

CREATE TABLE run (
    id TEXT PRIMARY KEY,
    number BIGINT NOT NULL UNIQUE,
    template TEXT NOT NULL,
    wave TEXT,
    server TEXT,               -- of a way back
    parent TEXT REFERENCES run (id), -- the wave's run that a way back belongs to
    state TEXT NOT NULL,       -- RUNNING, SUCCEEDED, CANCELLED
    stage TEXT NOT NULL,
    health TEXT NOT NULL,
    actor TEXT NOT NULL,
    started_us BIGINT NOT NULL,
    finished_us BIGINT NOT NULL
);
CREATE INDEX run_wave ON run (wave, template, number);
CREATE INDEX run_parent ON run (parent, server, state);
CREATE INDEX run_state ON run (state, template);

CREATE TABLE task (
    id TEXT PRIMARY KEY,
    number BIGINT NOT NULL UNIQUE,
    run TEXT NOT NULL REFERENCES run (id),
    position BIGINT NOT NULL,  -- in its template
    name TEXT NOT NULL,
    phase TEXT NOT NULL,
    server TEXT,               -- null: of the whole wave
    state TEXT NOT NULL,
    round BIGINT NOT NULL,
    due_us BIGINT NOT NULL,    -- when what it waits for was done; 0: not yet
    not_before_us BIGINT NOT NULL, -- of another try
    released BIGINT NOT NULL,  -- a person approved, in this round
    wait_kind TEXT,            -- person, window, time, event
    wait_what TEXT,
    wait_until_us BIGINT NOT NULL,
    label TEXT,
    fence BIGINT NOT NULL,     -- grows with every attempt that is given
    attempt TEXT,              -- the newest
    failures BIGINT NOT NULL,  -- that may go away by themselves, since the last retry by a person
    lost BIGINT NOT NULL,      -- attempts whose lease ran out, since then
    started_us BIGINT NOT NULL, -- in this round
    finished_us BIGINT NOT NULL,
    progress TEXT,
    progress_event_us BIGINT NOT NULL,
    error_kind TEXT,
    error_message TEXT,
    result TEXT,
    reason TEXT,               -- of a skip
    cancel_cause TEXT,         -- the running attempt is told to stop: task, run, back, timeout
    cancel_by TEXT
);
CREATE UNIQUE INDEX task_place ON task (run, server, name);
CREATE INDEX task_state ON task (state, wait_kind);
CREATE INDEX task_server ON task (server, state);

CREATE TABLE attempt (
    id TEXT PRIMARY KEY,
    task TEXT NOT NULL REFERENCES task (id),
    round BIGINT NOT NULL,
    fence BIGINT NOT NULL,
    runner TEXT NOT NULL,
    state TEXT NOT NULL,       -- RUNNING, SUCCEEDED, FAILED, LOST
    renewals BIGINT NOT NULL,
    lease_until_us BIGINT NOT NULL, -- for people; what counts is measured by a clock that doesn't jump
    started_us BIGINT NOT NULL,
    finished_us BIGINT NOT NULL,
    error_kind TEXT,
    error_message TEXT,
    result TEXT
);
CREATE INDEX attempt_task ON attempt (task, fence);
CREATE INDEX attempt_state ON attempt (state);

CREATE TABLE evidence (
    task TEXT NOT NULL REFERENCES task (id),
    number BIGINT NOT NULL,
    attempt TEXT NOT NULL REFERENCES attempt (id),
    at_us BIGINT NOT NULL,
    name TEXT NOT NULL,
    passed BIGINT NOT NULL,
    evidence TEXT NOT NULL,
    digest TEXT NOT NULL,      -- of name, passed and evidence: the same line again is no new line
    PRIMARY KEY (task, number)
);
CREATE UNIQUE INDEX evidence_line ON evidence (attempt, digest);

CREATE TABLE task_log (
    attempt TEXT NOT NULL REFERENCES attempt (id),
    number BIGINT NOT NULL,
    at_us BIGINT NOT NULL,
    line TEXT NOT NULL,
    PRIMARY KEY (attempt, number)
);

CREATE TABLE artifact (
    attempt TEXT NOT NULL REFERENCES attempt (id),
    name TEXT NOT NULL,
    task TEXT NOT NULL REFERENCES task (id),
    fence BIGINT NOT NULL,
    at_us BIGINT NOT NULL,
    media_type TEXT NOT NULL,
    size_bytes BIGINT NOT NULL,
    bytes BLOB NOT NULL,
    PRIMARY KEY (attempt, name)
);
CREATE INDEX artifact_task ON artifact (task, name, fence);

CREATE TABLE decision (
    task TEXT NOT NULL REFERENCES task (id),
    number BIGINT NOT NULL,
    round BIGINT NOT NULL,
    at_us BIGINT NOT NULL,
    actor TEXT NOT NULL,
    decision TEXT NOT NULL,    -- approve, reject
    note TEXT,
    PRIMARY KEY (task, number)
);

-- What somebody outside measured, for the report.
CREATE TABLE measurement (
    wave TEXT NOT NULL,
    name TEXT NOT NULL,
    at_us BIGINT NOT NULL,
    actor TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (wave, name)
);

-- The newest word of the replicator about a server in its wave's run, and how old its newest point was, as a histogram:
-- bucket b counts ages of at least 2^(b/8) and less than 2^((b+1)/8) milliseconds.
CREATE TABLE replication_seen (
    server TEXT PRIMARY KEY,
    first_us BIGINT NOT NULL,
    last_us BIGINT NOT NULL,
    age_max_ms BIGINT NOT NULL,
    rate_max BIGINT NOT NULL,  -- bytes per second
    newest TEXT NOT NULL
);
CREATE TABLE replication_age (
    server TEXT NOT NULL,
    bucket BIGINT NOT NULL,
    count BIGINT NOT NULL,
    PRIMARY KEY (server, bucket)
);
