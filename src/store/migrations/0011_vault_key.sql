-- What replicators' vaults are encrypted with: the newest is in use, the older ones stay for copies of vault.json that they open.
CREATE TABLE vault_key (
    replicator TEXT NOT NULL,
    number BIGINT NOT NULL, -- from 1
    sealed BLOB NOT NULL,
    made_us BIGINT NOT NULL,
    PRIMARY KEY (replicator, number)
);
