-- Replicators ask every second which certificates were revoked.
CREATE INDEX certificate_revoked ON certificate (revoked_us) WHERE revoked_us IS NOT NULL;
