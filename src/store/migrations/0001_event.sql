-- Migrations are written in the SQL that SQLite and PostgreSQL share: TEXT, BIGINT, BLOB; times are microseconds UTC; a table's
-- own growing id is "id AUTO_ID". A migration that has been released is never edited: add another one.
CREATE TABLE event (
    id AUTO_ID,
    at_us BIGINT NOT NULL,
    actor TEXT NOT NULL,
    kind TEXT NOT NULL,
    wave TEXT,
    entity TEXT NOT NULL,
    entity_id TEXT NOT NULL,
    data TEXT NOT NULL
);
CREATE INDEX event_wave ON event (wave, id);
CREATE INDEX event_entity ON event (entity, entity_id, id);
