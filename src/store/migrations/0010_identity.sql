-- What only the owner of the master key can open is sealed (BLOB); what only has to be recognised is a hash.
CREATE TABLE identity_mark (
    name TEXT PRIMARY KEY, -- 'master_key': which key this database was made with
    value TEXT NOT NULL
);
CREATE TABLE app_user (
    name TEXT PRIMARY KEY,
    password TEXT NOT NULL, -- argon2id, with its parameters
    role TEXT NOT NULL,
    admin BIGINT NOT NULL,
    created_us BIGINT NOT NULL,
    last_login_us BIGINT
);
CREATE TABLE user_session (
    hash TEXT PRIMARY KEY,
    user_name TEXT NOT NULL REFERENCES app_user (name) ON DELETE CASCADE,
    created_us BIGINT NOT NULL,
    expires_us BIGINT NOT NULL
);
CREATE INDEX user_session_expires ON user_session (expires_us);
CREATE TABLE api_token (
    id TEXT PRIMARY KEY,
    hash TEXT NOT NULL UNIQUE,
    user_name TEXT NOT NULL REFERENCES app_user (name) ON DELETE CASCADE,
    name TEXT NOT NULL,
    created_us BIGINT NOT NULL,
    expires_us BIGINT,
    last_used_us BIGINT,
    UNIQUE (user_name, name)
);
CREATE TABLE login_failure (
    subject TEXT PRIMARY KEY, -- 'name anna', 'address 192.0.2.7', 'pair anna 192.0.2.7'
    failures BIGINT NOT NULL,
    last_us BIGINT NOT NULL,
    until_us BIGINT NOT NULL
);
CREATE TABLE enrolment (
    hash TEXT PRIMARY KEY,
    kind TEXT NOT NULL,
    name TEXT NOT NULL,
    labels TEXT NOT NULL, -- a JSON array
    created_us BIGINT NOT NULL,
    expires_us BIGINT NOT NULL,
    used_us BIGINT
);
CREATE INDEX enrolment_name ON enrolment (kind, name);
CREATE TABLE peer (
    kind TEXT NOT NULL,
    name TEXT NOT NULL,
    labels TEXT NOT NULL,
    enrolled_us BIGINT NOT NULL,
    last_seen_us BIGINT,
    PRIMARY KEY (kind, name)
);
CREATE TABLE certificate (
    serial TEXT PRIMARY KEY, -- lower-case hexadecimal
    kind TEXT NOT NULL,
    name TEXT NOT NULL,
    issued_us BIGINT NOT NULL,
    expires_us BIGINT NOT NULL,
    revoked_us BIGINT,
    revoked_why TEXT
);
CREATE INDEX certificate_name ON certificate (kind, name);
CREATE TABLE credential (
    name TEXT PRIMARY KEY,
    kind TEXT NOT NULL,
    user_name TEXT,
    secret BLOB NOT NULL,
    sudo TEXT NOT NULL,
    sudo_secret BLOB,
    created_us BIGINT NOT NULL
);
