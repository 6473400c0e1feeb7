-- Counting a wave's servers by lifecycle, which each list of waves does: from this index alone, without their wide rows.
CREATE INDEX server_counts ON server (wave, lifecycle);
