CREATE TABLE ledger (n bigint PRIMARY KEY, payload text NOT NULL, sum text NOT NULL)
ALTER TABLE ledger OWNER TO ledger
GRANT SELECT ON ledger TO probe
