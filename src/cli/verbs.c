/* The table of the command line: every command, verb, argument, option, column. Nothing else knows them. */
#include "cli/cli_private.h"
#include "inventory/rule.h"

#define END_OPTION {NULL, NULL, NULL, false}
#define END_COLUMN {NULL, NULL, CLI_TEXT}
#define END_FIELD {NULL, NULL, CLI_STRING}

const struct cli_option cli_common_options[] = {
    {"output", "FORMAT", "-o: table (default) or json", false},
    {"url", "URL", "the factory's address (SLIPWAY_URL)", false},
    {"ca", "FILE", "the factory's CA certificate, PEM (SLIPWAY_CA)", false},
    {"help", NULL, "-h: this text", false},
    END_OPTION,
};

const struct cli_summary cli_summaries[] = {
    {"wave", "waves: what moves together, and when"},
    {"window", "a wave's cutover window"},
    {"server", "source servers: what they are, where they stand, the way there and back"},
    {"run", "runs of a wave's tasks"},
    {"task", "single tasks: their evidence, decisions, retries"},
    {"point", "recovery points: the way out of a vault, on the machine that holds it"},
    {"target", "where machines are launched"},
    {"runner", "enrolled runners"},
    {"replicator", "enrolled replicators"},
    {"user", "people"},
    {"token", "API tokens of your own"},
    {"credential", "what opens the source machines and services"},
    {"settings", "the factory's settings"},
    {NULL, NULL},
};

/* ---- Columns ---- */

static const struct cli_column wave_list[] = {{"WAVE", "name", 0}, {"STAGE", "stage", 0}, {"HEALTH", "health", 0}, {"SERVERS", "server_count", 0},
    {"OPENS", "window.opens", 0}, {"CLOSES", "window.closes", 0}, {"TITLE", "title", 0}, END_COLUMN};
static const struct cli_column wave_one[] = {{"name", "name", 0}, {"title", "title", 0}, {"stage", "stage", 0}, {"health", "health", 0},
    {"window opens", "window.opens", 0}, {"window closes", "window.closes", 0}, {"time zone", "window.time_zone", 0}, {"run", "run", 0},
    {"servers", "server_count", 0}, {"lifecycle", "lifecycle", 0}, {"settings", "settings", 0}, END_COLUMN};
static const struct cli_column window_one[] = {{"wave", "name", 0}, {"opens", "window.opens", 0}, {"closes", "window.closes", 0},
    {"time zone", "window.time_zone", 0}, {"notice", "window.notice", 0}, END_COLUMN};
static const struct cli_column server_list[] = {{"SERVER", "name", 0}, {"WAVE", "wave", 0}, {"LIFECYCLE", "lifecycle", 0},
    {"REPLICATION", "replication.state", 0}, {"WHY", "replication.cause.kind", 0}, {"BACKLOG", "replication.backlog_bytes", CLI_BYTES},
    {"CHURN", "replication.churn_bytes_per_s", CLI_RATE}, {"RATE", "replication.rate_bytes_per_s", CLI_RATE}, {"LAG", "replication.lag_ms", CLI_MS},
    {"ETA", "replication", CLI_ETA}, {"NEWEST POINT'S AGE", "replication.newest_point_age_ms", CLI_MS}, {"INSTANCE", "instance.state", 0}, {"DOOR", "instance.door", 0},
    {"OWNER", "owner", 0}, END_COLUMN};
static const struct cli_column server_one[] = {{"name", "name", 0}, {"wave", "wave", 0}, {"application", "application", 0}, {"owner", "owner", 0},
    {"address", "address", 0}, {"lifecycle", "lifecycle", 0}, {"replicator", "placement.replicator", 0}, {"  moves to", "placement.to", 0},
    {"  chosen", "placement.why", 0}, {"  the agent can't follow", "replication.move.error", 0},
    {"second copy", "copy.replicator", 0}, {"  chosen", "copy.why", 0}, {"  state", "replication.copy.state", 0}, {"  newest point there", "replication.copy.point_at", 0},
    {"  its age", "replication.copy.point_age_ms", CLI_MS}, {"  behind by", "replication.copy.lag_ms", CLI_MS}, {"  to be copied", "replication.copy.backlog_bytes", CLI_BYTES},
    {"  pinned points not there", "replication.copy.pins_missing", 0}, {"  does not go on", "replication.copy.error.message", 0}, {"replication", "replication.state", 0}, {"  why", "replication.cause.text", 0},
    {"  what to do", "replication.cause.advice", 0}, {"  caught up in", "replication", CLI_ETA}, {"  backlog", "replication.backlog_bytes", CLI_BYTES},
    {"  written anew (churn)", "replication.churn_bytes_per_s", CLI_RATE}, {"  gets across (rate)", "replication.rate_bytes_per_s", CLI_RATE},
    {"  limit (0: none)", "replication.limit_bytes_per_s", CLI_RATE}, {"  held up by", "replication.bottleneck", 0}, {"  lag", "replication.lag_ms", CLI_MS},
    {"  newest point", "replication.newest_point_at", 0}, {"  newest point's age", "replication.newest_point_age_ms", CLI_MS},
    {"  disks", "replication.bytes_total", CLI_BYTES}, {"  sent", "replication.bytes_sent", CLI_BYTES}, {"  stored", "replication.bytes_stored", CLI_BYTES},
    {"  an I/O at the source without the agent (ms)", "replication.source_latency.without_us", CLI_US_IN_MS},
    {"  and while it reads (ms)", "replication.source_latency.with_us", CLI_US_IN_MS}, {"  held back for the source to (0: not)", "replication.source_latency.backoff_bytes_per_s", CLI_RATE},
    {"  reported", "replication.reported", 0}, {"instance", "instance", 0}, {"attributes", "attributes", 0}, {"os", "facts.os", 0},
    {"version", "version", 0}, END_COLUMN};
const struct cli_column cli_replication_columns[] = {{"SERVER", "name", 0}, {"STATE", "replication.state", 0}, {"CAUGHT UP IN", "replication", CLI_ETA},
    {"BACKLOG", "replication.backlog_bytes", CLI_BYTES}, {"CHURN", "replication.churn_bytes_per_s", CLI_RATE},
    {"RATE", "replication.rate_bytes_per_s", CLI_RATE}, {"LAG", "replication.lag_ms", CLI_MS},
    {"NEWEST POINT'S AGE", "replication.newest_point_age_ms", CLI_MS}, {"WAVE", "wave", 0}, END_COLUMN};
static const struct cli_column setting_list[] = {{"SETTING", "name", 0}, {"HOLDS", "value", 0}, {"SET BY", "source", 0}, END_COLUMN};
static const struct cli_column disk_list[] = {{"DISK", "id", 0}, {"NAME", "name", 0}, {"SIZE", "size_bytes", CLI_BYTES}, END_COLUMN};
static const struct cli_column run_list[] = {{"RUN", "id", 0}, {"WHAT", "template", 0}, {"WAVE", "wave", 0}, {"SERVER", "server", 0}, {"STATE", "state", 0},
    {"STARTED", "started", 0}, {"FINISHED", "finished", 0}, {"BY", "actor", 0}, END_COLUMN};
static const struct cli_column run_one[] = {{"run", "id", 0}, {"what", "template", 0}, {"wave", "wave", 0}, {"state", "state", 0},
    {"started", "started", 0}, {"finished", "finished", 0}, {"by", "actor", 0}, END_COLUMN};
static const struct cli_column task_list[] = {{"TASK", "id", 0}, {"WHAT", "title", 0}, {"SERVER", "server", 0}, {"STATE", "state", 0},
    {"WAITS FOR", "waits_for.what", 0}, {"TRY", "attempt", 0}, {"EVIDENCE", "evidence_count", 0}, {"FAULTS", "evidence_failed", 0},
    {"ERROR", "error.message", 0}, END_COLUMN};
static const struct cli_column task_one[] = {{"task", "id", 0}, {"what", "title", 0}, {"server", "server", 0}, {"phase", "phase", 0},
    {"state", "state", 0}, {"waits for", "waits_for", 0}, {"attempt", "attempt", 0}, {"started", "started", 0}, {"finished", "finished", 0},
    {"progress", "progress", 0}, {"error", "error.message", 0}, END_COLUMN};
static const struct cli_column evidence_list[] = {{"HOLDS", "passed", CLI_YES}, {"WHAT", "name", 0}, {"SEEN", "evidence", 0}, END_COLUMN};
static const struct cli_column artifact_list[] = {{"NAME", "name", 0}, {"TYPE", "media_type", 0}, {"SIZE", "size_bytes", CLI_BYTES}, END_COLUMN};
static const struct cli_column decision_list[] = {{"DECISION", "decision", 0}, {"BY", "actor", 0}, {"AT", "at", 0}, {"NOTE", "note", 0}, END_COLUMN};
static const struct cli_column started_run[] = {{"run", "run", 0}, END_COLUMN};
static const struct cli_column peer_list[] = {{"NAME", "name", 0}, {"STATE", "state", 0}, {"LABELS", "labels", 0}, {"LAST SEEN", "last_seen", 0},
    {"ENROLLED", "enrolled", 0}, END_COLUMN};
static const struct cli_column replicator_list[] = {{"NAME", "name", 0}, {"STATE", "state", 0}, {"DRAINED", "drained", CLI_YES}, {"SERVERS", "servers", 0}, {"MOVING IN", "moving_in", 0},
    {"COPIES", "copies", 0}, {"STALLED", "copies_stalled", 0}, {"COPIES' LAG", "copies_lag_ms", CLI_MS},
    {"FREE", "vault.free_bytes", CLI_BYTES}, {"OF", "vault.total_bytes", CLI_BYTES}, {"TO COME", "to_come_bytes", CLI_BYTES}, {"FULL %", "full_percent", 0},
    {"BUSY %", "busy_percent", 0}, {"ADDRESS", "address", 0}, {"PORT", "port", 0}, {"LAST SEEN", "last_seen", 0}, END_COLUMN};
static const struct cli_column moving_one[] = {{"server", "server", 0}, {"goes to", "to", 0}, {"its agent is pushed again by the run", "run", 0}, END_COLUMN};
static const struct cli_column moving_list[] = {{"SERVER", "server", 0}, {"GOES TO", "to", 0}, {"PUSHED BY RUN", "run", 0}, END_COLUMN};
static const struct cli_column staying_list[] = {{"SERVER", "server", 0}, {"STAYS BECAUSE", "reason", 0}, END_COLUMN};
static const struct cli_column drained_one[] = {END_COLUMN};
static const struct cli_section drained_sections[] = {{"Moving", "moving", moving_list}, {"Staying", "staying", staying_list}, {NULL, NULL, NULL}};
static const struct cli_column target_list[] = {{"TARGET", "name", 0}, {"STATE", "state", 0}, {"LAST SEEN", "last_seen", 0}, END_COLUMN};
static const struct cli_column user_list[] = {{"NAME", "name", 0}, {"ROLE", "role", 0}, {"ADMIN", "admin", CLI_YES}, {"LAST LOGIN", "last_login", 0},
    {"CREATED", "created", 0}, END_COLUMN};
static const struct cli_column token_list[] = {{"ID", "id", 0}, {"NAME", "name", 0}, {"USER", "user", 0}, {"EXPIRES", "expires", 0},
    {"LAST USED", "last_used", 0}, END_COLUMN};
static const struct cli_column token_one[] = {{"token", "token", 0}, {"id", "id", 0}, {"expires", "expires", 0}, END_COLUMN};
static const struct cli_column enrolment_one[] = {{"token", "token", 0}, {"expires", "expires", 0}, END_COLUMN};
static const struct cli_column credential_list[] = {{"NAME", "name", 0}, {"KIND", "kind", 0}, {"USER", "user", 0}, {"SUDO", "sudo", 0},
    {"CREATED", "created", 0}, END_COLUMN};
static const struct cli_column backup_one[] = {{"backup", "path", 0}, END_COLUMN};
static const struct cli_column audit_list[] = {{"ID", "id", 0}, {"AT", "at", 0}, {"BY", "actor", 0}, {"WHAT", "kind", 0}, {"ON", "entity", 0},
    {"NAME", "entity_id", 0}, {"DETAILS", "data", 0}, END_COLUMN};
static const struct cli_column me_one[] = {{"name", "name", 0}, {"role", "role", 0}, {"admin", "admin", CLI_YES}, END_COLUMN};
static const struct cli_column report_one[] = {{"result", "result", 0}, {"started", "started", 0}, {"finished", "finished", 0},
    {"accelerator", "accelerator", 0}, {"rows", "rows", 0}, {"bytes read", "replication.bytes_read", CLI_BYTES},
    {"bytes sent", "replication.bytes_sent", CLI_BYTES}, {"bytes stored", "replication.bytes_stored", CLI_BYTES}, END_COLUMN};
static const struct cli_column report_server[] = {{"SERVER", "name", 0}, {"DOWN FOR", "downtime_ms", CLI_MS}, {"PROBES", "probes_total", 0},
    {"FAILED", "probes_failed", 0}, {"WAY BACK", "way_back_ms", CLI_MS}, END_COLUMN};
static const struct cli_column report_refusal[] = {{"ASKED", "what", 0}, {"REFUSED BECAUSE", "reason", 0}, END_COLUMN};

static const struct cli_column point_list[] = {{"POINT", "id", 0}, {"WHEN", "when", 0}, {"TAKEN", "consistency", 0}, {"GROUP", "group", 0}, {"WINDOW (us)", "group_window_us", 0}, {"CHANGED", "bytes", CLI_BYTES},
    {"DISKS", "disk_count", 0}, {"UNREADABLE", "unreadable_bytes", CLI_BYTES}, {"PINNED", "pins", 0}, END_COLUMN};
static const struct cli_column group_one[] = {{"group", "id", 0}, {"name", "name", 0}, {"when", "when", 0}, {"taken", "consistency", 0},
    {"all stood still for (us)", "window_us", 0}, {"attempts", "attempts", 0}, END_COLUMN};
static const struct cli_column group_point[] = {{"SERVER", "server", 0}, {"POINT", "id", 0}, {"TAKEN", "consistency", 0}, {"FROZEN FOR", "freeze_ms", CLI_MS},
    {"CHANGED", "bytes", CLI_BYTES}, END_COLUMN};
static const struct cli_column point_one[] = {{"point", "id", 0}, {"server", "server", 0}, {"when", "when", 0}, {"group", "group", 0}, {"  all stood still for (us)", "group_window_us", 0}, {"taken", "consistency", 0},
    {"frozen for", "freeze_ms", CLI_MS}, {"changed since the one before", "bytes", CLI_BYTES}, {"could not be read at the source", "unreadable_bytes", CLI_BYTES}, {"pinned by", "pins", 0}, END_COLUMN};
static const struct cli_column point_disk[] = {{"DISK", "id", 0}, {"SIZE", "size_bytes", CLI_BYTES}, {"CHANGED", "changed_bytes", CLI_BYTES},
    END_COLUMN};
static const struct cli_column image_list[] = {{"DISK", "disk", 0}, {"FILE", "path", 0}, {"SIZE", "size_bytes", CLI_BYTES},
    {"TAKES", "file_bytes", CLI_BYTES}, {"COMPARED", "compared", CLI_YES}, END_COLUMN};
static const struct cli_column entry_list[] = {{"TYPE", "type", 0}, {"MODE", "mode", 0}, {"SIZE", "size_bytes", CLI_BYTES},
    {"MODIFIED", "modified", 0}, {"NAME", "name", 0}, END_COLUMN};

static const struct cli_column unreadable_range[] = {{"DISK", "disk", 0}, {"FIRST SECTOR", "first_sector", 0}, {"SECTORS", "sector_count", 0}, END_COLUMN};
static const struct cli_section point_sections[] = {{"Disks", "disks", point_disk}, {"Zero, for they could not be read (the first places)", "unreadable", unreadable_range},
    {NULL, NULL, NULL}};
static const struct cli_section group_sections[] = {{"Points", "points", group_point}, {NULL, NULL, NULL}};
static const struct cli_section run_sections[] = {{"Tasks", "tasks", task_list}, {NULL, NULL, NULL}};
static const struct cli_section task_sections[] = {{"Evidence", "evidence", evidence_list}, {"Artifacts", "artifacts", artifact_list},
    {"Decisions", "decisions", decision_list}, {NULL, NULL, NULL}};
static const struct cli_column newest_list[] = {{"POINT", "id", 0}, {"WHEN", "at", CLI_TIME}, {"TAKEN", "consistency", 0}, {"FROZEN FOR", "freeze_ms", CLI_MS}, {"GROUP", "group", 0},
    {"WINDOW (us)", "group_window_us", 0}, END_COLUMN};
static const struct cli_section server_sections[] = {{"Disks", "disks", disk_list}, {"Newest recovery points", "points", newest_list},
    {"How it is replicated", "replication_settings", setting_list}, {NULL, NULL, NULL}};
static const struct cli_section report_sections[] = {{"Servers", "servers", report_server}, {"Refused", "refusals", report_refusal}, {NULL, NULL, NULL}};

/* ---- Options and bodies ---- */

#define VAULT_OPTION {"vault", "FOLDER", "the vault's folder, or the replicator's, or the factory's data folder (SLIPWAY_VAULT)", false}, \
    {"vault-key-file", "FILE", "its key, where no replicator has it open and it lies in no factory's data folder (SLIPWAY_VAULT_KEY_FILE)", false}, \
    {"s3-credentials-file", "FILE", "where no replicator has it open and segments lie in a bucket: aws_access_key_id = … and aws_secret_access_key = …", false}, \
    {"s3-url", "URL", "the store (as vault.json says)", false}, {"s3-bucket", "NAME", "its bucket (as vault.json says)", false}, \
    {"s3-prefix", "WORDS", "what all keys begin with (as vault.json says)", false}, {"s3-region", "NAME", "the store's region (us-east-1)", false}, \
    {"s3-ca", "FILE", "PEM of the store's CA (the system's)", false}
static const struct cli_option vault_option[] = {VAULT_OPTION, END_OPTION};
static const struct cli_option point_list_options[] = {VAULT_OPTION, {"limit", "N", "not more than these (default 50)", false},
    {"page", "POINT", "those older than this one", false}, END_OPTION};
static const struct cli_option point_take_options[] = {VAULT_OPTION, {"server", "NAME", "of this server; several times: of all of them, at one instant", true},
    {"application", "NAME", "of all servers of this application, as the factory knows them", false}, {"wave", "WAVE", "of all servers of this wave", false},
    {"consistency", "HOW", "crash: never freezes; frozen; application: with the owner's programs; any (default): the first that comes", false},
    {"name", "TEXT", "for whoever asks later (default: the application)", false}, {"timeout", "SECONDS", "how long it is tried (default 120)", false}, END_OPTION};
static const struct cli_option point_export_options[] = {VAULT_OPTION, {"to", "FOLDER", "where the images go; made where it is missing", false},
    {"format", "FORMAT", "raw, qcow2 (default), vmdk or vhdx", false}, {"disk", "ID", "only this one, as `slipway point show` names it", false},
    {"force", NULL, "replace files that exist, once the new ones are whole", false},
    {"no-compare", NULL, "don't read the images again to compare them with the point", false}, END_OPTION};
static const struct cli_option point_files_options[] = {VAULT_OPTION,
    {"filesystem", "DEVICE", "where the disks hold several systems or file systems, such as /dev/sda1 or /dev/vg/root", false},
    {"limit", "N", "not more than these (default 1000)", false}, END_OPTION};
static const struct cli_option point_fetch_options[] = {VAULT_OPTION, {"to", "FILE", "where it goes; only its owner may read it there", false},
    {"filesystem", "DEVICE", "where the disks hold several systems or file systems, such as /dev/sda1 or /dev/vg/root", false},
    {"force", NULL, "replace a file that exists, once the new one is whole", false}, END_OPTION};
static const struct cli_option point_verify_options[] = {VAULT_OPTION, {"stored", NULL, "only what the vault holds, not the source", false},
    END_OPTION};
static const struct cli_option point_pin_options[] = {VAULT_OPTION, {"reason", "TEXT", "why, for whoever asks later; up to 57 bytes", false},
    END_OPTION};
static const struct cli_option point_unpin_options[] = {VAULT_OPTION, {"reason", "TEXT", "only this pin (default: all that people set)", false},
    END_OPTION};
static const struct cli_option point_drop_options[] = {VAULT_OPTION, {"yes", NULL, "don't ask", false}, END_OPTION};

static const struct cli_option login_options[] = {{"name", "NAME", "who signs in; asked for where it is missing", false},
    {"password-file", "FILE", "the password (\"-\": standard input); asked for where it is missing", false},
    {"fingerprint", "SHA256:...", "of the factory's CA, as `slipway serve` prints it: trusts it from now on", false}, END_OPTION};
static const struct cli_option import_options[] = {{"dry-run", NULL, "only show what would change", false},
    {"create-waves", NULL, "make the waves that are not there yet", false}, END_OPTION};
static const struct cli_option export_options[] = {{"wave", "WAVE", "only its servers", false}, {"file", "FILE", "write there", false}, END_OPTION};
static const struct cli_option file_option[] = {{"file", "FILE", "write there instead of standard output", false}, END_OPTION};
static const struct cli_option yes_option[] = {{"yes", NULL, "don't ask", false}, END_OPTION};
static const struct cli_option title_option[] = {{"title", "TEXT", "for people", false}, END_OPTION};
static const struct cli_option window_options[] = {{"opens", "TIME", "RFC 3339, such as 2027-03-01T22:00:00+01:00; or now, or +15m (from now)", false}, {"closes", "TIME", "the same; +4h: after it opened", false},
    {"time-zone", "ZONE", "for people and calendars, such as Europe/Berlin (default UTC)", false},
    {"notice", "TEXT", "what owners are told", false}, END_OPTION};
static const struct cli_option server_options[] = {{"wave", "WAVE", "only its servers", false}, {"q", "TEXT", "part of a name, address, owner, application", false},
    {"sort", "COLUMN", "such as name, or -lifecycle", false}, {"limit", "N", "not more than these", false}, END_OPTION};
static const struct cli_option replication_options[] = {{"wave", "WAVE", "only its servers", false},
    {"no-fail", NULL, "exit status 0 also where a copy does not keep up", false}, END_OPTION};
static const struct cli_option back_options[] = {{"bring-changes", NULL, "with what was written since its door was opened", false}, {"confirm", "WORDS", "the words that the refusal asked for: what was written since is lost", false},
    {"yes", NULL, "don't ask", false}, END_OPTION};
static const struct cli_field back_fields[] = {{"confirm", "confirm", CLI_STRING}, {"bring_changes", "bring-changes", CLI_FLAG}, END_FIELD};
static const struct cli_field trust_fields[] = {{"host_key", "1", CLI_STRING}, END_FIELD};
static const struct cli_option run_options[] = {{"wave", "WAVE", "only its runs", false}, {"limit", "N", "not more than these", false}, END_OPTION};
static const struct cli_option note_option[] = {{"note", "TEXT", "why", false}, END_OPTION};
static const struct cli_field approve_fields[] = {{"decision", "=approve", CLI_STRING}, {"note", "note", CLI_STRING}, END_FIELD};
static const struct cli_field reject_fields[] = {{"decision", "=reject", CLI_STRING}, {"note", "note", CLI_STRING}, END_FIELD};
static const struct cli_field skip_fields[] = {{"reason", "1", CLI_STRING}, END_FIELD};
static const struct cli_field wave_fields[] = {{"name", "0", CLI_STRING}, {"title", "title", CLI_STRING}, END_FIELD};
static const struct cli_option user_options[] = {{"role", "ROLE", "viewer (default) or operator", false}, {"admin", NULL, "may manage users", false},
    {"password-file", "FILE", "the first password (\"-\": standard input)", false}, END_OPTION};
static const struct cli_field user_fields[] = {{"name", "0", CLI_STRING}, {"role", "role", CLI_STRING}, {"admin", "admin", CLI_FLAG},
    {"password", "password-file", CLI_SECRET_FILE}, END_FIELD};
static const struct cli_option password_options[] = {{"password-file", "FILE", "the new password (\"-\": standard input)", false}, END_OPTION};
static const struct cli_field password_fields[] = {{"password", "password-file", CLI_SECRET_FILE}, END_FIELD};
static const struct cli_option token_options[] = {{"expires", "DURATION", "such as 30d; without it, never", false}, END_OPTION};
static const struct cli_field token_fields[] = {{"name", "0", CLI_STRING}, {"expires_in", "expires", CLI_STRING}, END_FIELD};
static const struct cli_option enrol_options[] = {{"label", "LABEL", "what a runner may do: source:NETWORK, target, replicator, replicator:NAME, factory", true},
    {"ttl", "SECONDS", "how long the token is good (default 3600)", false}, END_OPTION};
static const struct cli_field enrol_fields[] = {{"kind", "0", CLI_STRING}, {"name", "1", CLI_STRING}, {"labels", "label", CLI_LIST},
    {"ttl_s", "ttl", CLI_INTEGER}, END_FIELD};
static const struct cli_option credential_options[] = {{"user", "NAME", "who logs in", false}, {"key-file", "FILE", "an SSH private key", false},
    {"password-file", "FILE", "an SSH password", false}, {"token-file", "FILE", "a token of a service, such as a CMDB", false},
    {"sudo", "HOW", "none, nopasswd or password", false}, {"sudo-password-file", "FILE", "sudo's password", false}, END_OPTION};
static const struct cli_option move_options[] = {{"to", "NAME", "the replicator (without: the factory chooses)", false},
    {"lost", NULL, "its replicator is gone for good: it is placed where its second copy is", false}, END_OPTION};
static const struct cli_option drain_options[] = {{"to", "NAME", "to this one only (without: the factory chooses for each server)", false}, {"yes", NULL, "don't ask", false}, END_OPTION};
static const struct cli_field move_fields[] = {{"to", "to", CLI_STRING}, {"lost", "lost", CLI_FLAG}, END_FIELD};
static const struct cli_field drain_fields[] = {{"to", "to", CLI_STRING}, END_FIELD};
static const struct cli_option doctor_options[] = {{"no-fail", NULL, "exit status 0 also where a check failed", false}, END_OPTION};
static const struct cli_option report_options[] = {{"html", "FILE", "the report as one page (\"-\": standard output)", false}, END_OPTION};
static const struct cli_option audit_options[] = {{"wave", "WAVE", "only its events", false}, {"after", "ID", "only later ones", false},
    {"limit", "N", "not more than these", false}, END_OPTION};
static const struct cli_option watch_options[] = {{"wave", "WAVE", "only its events", false}, {"since", "ID", "from the event after this one on", false},
    {"replication", NULL, "and the servers' replication, as it changes", false}, END_OPTION};

/* ---- The verbs ---- */

const struct cli_verb cli_verbs[] = {
    {.command = "login", .summary = "sign in, and keep a token of this machine's own", .options = login_options, .run = cli_run_login,
     .example = "login --url https://factory.example:8443 --ca ca.pem --name anna"},
    {.command = "logout", .summary = "revoke and forget the token that `slipway login` kept", .run = cli_run_logout, .example = "logout"},
    {.command = "me", .summary = "who you are to the factory", .method = "GET", .path = "/v1/me", .columns = me_one, .example = "me"},
    {.command = "doctor", .summary = "what holds, what doesn't, and what to do", .options = doctor_options, .run = cli_run_doctor, .example = "doctor"},

    {.command = "import", .arguments = "FILE", .summary = "servers from CSV (\"-\": standard input)", .options = import_options, .run = cli_run_import,
     .example = "import servers.csv --dry-run"},
    {.command = "export", .summary = "servers as CSV that import reads", .options = export_options, .run = cli_run_export,
     .example = "export --wave wave-1 --file servers.csv"},

    {.command = "wave", .verb = "list", .summary = "all waves", .method = "GET", .path = "/v1/waves", .columns = wave_list, .example = "wave list"},
    {.command = "wave", .verb = "show", .arguments = "WAVE", .summary = "one wave, and how its servers replicate", .run = cli_run_wave_show,
     .columns = wave_one, .example = "wave show wave-1"},
    {.command = "wave", .verb = "create", .arguments = "WAVE", .summary = "make a wave", .options = title_option, .method = "POST", .path = "/v1/waves",
     .fields = wave_fields, .columns = wave_one, .example = "wave create wave-1 --title 'The shop'"},
    {.command = "wave", .verb = "set", .arguments = "WAVE NAME=VALUE...", .summary = "change a wave's settings (VALUE null removes one)",
     .options = title_option, .run = cli_run_wave_set, .assigns = wave_settings, .columns = wave_one, .example = "wave set wave-1 hold_s=86400"},
    {.command = "wave", .verb = "start", .arguments = "WAVE", .summary = "start the wave's run", .method = "POST", .path = "/v1/waves/{0}/start",
     .columns = started_run, .example = "wave start wave-1"},
    {.command = "wave", .verb = "cutover", .arguments = "WAVE", .summary = "cut the wave over now; refused outside its window", .options = yes_option,
     .method = "POST", .path = "/v1/waves/{0}/cutover", .asks = "Cut %s over now? Its sources stop serving.", .done = "%s is being cut over.",
     .example = "wave cutover wave-1"},
    {.command = "wave", .verb = "measure", .arguments = "WAVE NAME JSON",
     .summary = "add what was measured outside (JSON, a file of it, or \"-\": standard input)",
     .run = cli_run_measure, .done = "Noted.", .example = "wave measure wave-1 probe probe.json"},
    {.command = "window", .verb = "show", .arguments = "WAVE", .summary = "a wave's cutover window", .method = "GET", .path = "/v1/waves/{0}",
     .columns = window_one, .example = "window show wave-1"},
    {.command = "window", .verb = "set", .arguments = "WAVE", .summary = "set a wave's cutover window", .options = window_options,
     .run = cli_run_window_set, .columns = window_one, .done = "The window of %s is set.",
     .example = "window set wave-1 --opens 2027-03-01T22:00:00Z --closes 2027-03-02T02:00:00Z"},

    {.command = "server", .verb = "list", .summary = "servers", .options = server_options, .method = "GET",
     .path = "/v1/servers?wave={wave}&q={q}&sort={sort}&limit={limit}", .columns = server_list, .example = "server list --wave wave-1"},
    {.command = "server", .verb = "show", .arguments = "SERVER", .summary = "one server", .method = "GET", .path = "/v1/servers/{0}", .columns = server_one,
     .sections = server_sections, .example = "server show db01"},
    {.command = "server", .verb = "set", .arguments = "SERVER NAME=VALUE...", .summary = "change a server (VALUE null removes an attribute)",
     .run = cli_run_server_set, .assigns = server_attributes, .columns = server_one, .example = "server set db01 door=ask memory_mib=4096"},
    {.command = "server", .verb = "trust", .arguments = "SERVER FINGERPRINT", .summary = "pin the server's SSH host key", .method = "PATCH",
     .path = "/v1/servers/{0}", .fields = trust_fields, .done = "The host key of %s is pinned.",
     .example = "server trust db01 SHA256:0V0oGtWzKYzEkGCkHGUPVEnwUgkEaXmFwxtfXlfdhqE"},
    {.command = "server", .verb = "cutover", .arguments = "SERVER", .summary = "cut a server over again that was taken back", .options = yes_option,
     .method = "POST", .path = "/v1/servers/{0}/cutover", .asks = "Cut %s over now? Its source stops serving.", .done = "%s is being cut over.",
     .example = "server cutover db01"},
    {.command = "server", .verb = "move", .arguments = "SERVER", .summary = "give it to another replicator while it runs", .options = move_options, .method = "POST",
     .path = "/v1/servers/{0}/move", .fields = move_fields, .columns = moving_one, .example = "server move db01 --to staging2"},
    {.command = "server", .verb = "push", .arguments = "SERVER", .summary = "push its agent again: of this release, with a new certificate", .options = yes_option,
     .method = "POST", .path = "/v1/servers/{0}/push", .columns = started_run, .asks = "Push the agent of %s again?", .example = "server push db01"},
    {.command = "server", .verb = "revoke", .arguments = "SERVER", .summary = "end its agent's certificates: replicators take it no more until it is pushed again",
     .options = yes_option, .method = "DELETE", .path = "/v1/agents/{0}", .asks = "Revoke the certificates of the agent of %s? It is not replicated until it is pushed again.",
     .done = "The certificates of the agent of %s are revoked.", .example = "server revoke db01 --yes"},
    {.command = "server", .verb = "open", .arguments = "SERVER", .summary = "open the door of its instance to its clients", .options = yes_option,
     .method = "POST", .path = "/v1/servers/{0}/open", .asks = "Open %s to its clients? From then on, going back loses what they write.",
     .done = "The door of %s opens.", .example = "server open db01"},
    {.command = "server", .verb = "back", .arguments = "SERVER", .summary = "take it back: the instance stops, the source serves again",
     .options = back_options, .method = "POST", .path = "/v1/servers/{0}/back", .fields = back_fields, .columns = started_run,
     .asks = "Take %s back to its source?", .example = "server back db01 --bring-changes"},
    {.command = "server", .verb = "stay", .arguments = "SERVER", .summary = "call a way back with changes off: the launched machine serves on", .options = yes_option,
     .method = "POST", .path = "/v1/servers/{0}/stay", .columns = started_run, .asks = "Keep the launched machine of %s?", .example = "server stay db01"},
    {.command = "server", .verb = "finalize", .arguments = "SERVER", .summary = "end the way back; refused before acceptance", .options = yes_option,
     .method = "POST", .path = "/v1/servers/{0}/finalize", .asks = "Finalize %s? There is no way back after that.", .done = "%s is being finalized.",
     .example = "server finalize db01"},
    {.command = "server", .verb = "decommission", .arguments = "SERVER", .summary = "switch its source off; refused before finalize and the hold's end",
     .options = yes_option, .method = "POST", .path = "/v1/servers/{0}/decommission", .asks = "Switch the source of %s off for good?",
     .done = "The source of %s is being decommissioned.", .example = "server decommission db01"},

    {.command = "replication", .verb = "pause", .arguments = "SERVER", .summary = "read and send nothing of it until it is resumed; changes are marked meanwhile",
     .method = "POST", .path = "/v1/servers/{0}/pause", .done = "The replication of %s is being paused.", .example = "replication pause web01"},
    {.command = "replication", .verb = "resume", .arguments = "SERVER", .summary = "let it go on", .method = "POST", .path = "/v1/servers/{0}/resume",
     .done = "The replication of %s goes on.", .example = "replication resume web01"},
    {.command = "replication", .verb = "accept", .arguments = "SERVER", .summary = "its disks that are missing were meant to go: points are whole without them",
     .options = point_drop_options, .run = cli_run_replication_accept,
     .asks = "Go on without the disks of %s that are missing? The points from before that have them go with their retention.", .done = "What is missing of %s is accepted.",
     .example = "replication accept web01 --yes --vault /var/lib/slipway"},
    {.command = "replication", .summary = "do the copies keep up? worst first, why, what to do; exit status 7 where one does not",
     .options = replication_options, .run = cli_run_replication, .columns = cli_replication_columns, .example = "replication --wave wave-1"},

    {.command = "run", .verb = "list", .summary = "runs, newest first", .options = run_options, .method = "GET", .path = "/v1/runs?wave={wave}&limit={limit}",
     .columns = run_list, .example = "run list --wave wave-1"},
    {.command = "run", .verb = "show", .arguments = "RUN", .summary = "one run with its tasks", .method = "GET", .path = "/v1/runs/{0}", .columns = run_one,
     .sections = run_sections, .example = "run show r1"},
    {.command = "run", .verb = "cancel", .arguments = "RUN", .summary = "stop it; no task of it starts any more", .options = yes_option, .method = "POST",
     .path = "/v1/runs/{0}/cancel", .asks = "Cancel the run %s?", .done = "The run %s is being cancelled.", .example = "run cancel r1"},
    {.command = "task", .verb = "show", .arguments = "TASK", .summary = "one task with its evidence", .method = "GET", .path = "/v1/tasks/{0}",
     .columns = task_one, .sections = task_sections, .example = "task show t17"},
    {.command = "task", .verb = "approve", .arguments = "TASK", .summary = "say yes to a task that waits for a person", .options = note_option,
     .method = "POST", .path = "/v1/tasks/{0}/decide", .fields = approve_fields, .done = "%s is approved.", .example = "task approve t17 --note 'looked at the shop'"},
    {.command = "task", .verb = "reject", .arguments = "TASK", .summary = "say no to it", .options = note_option, .method = "POST",
     .path = "/v1/tasks/{0}/decide", .fields = reject_fields, .done = "%s is rejected.", .example = "task reject t17 --note 'the shop has no pictures'"},
    {.command = "task", .verb = "retry", .arguments = "TASK", .summary = "try a failed task again", .method = "POST", .path = "/v1/tasks/{0}/retry",
     .done = "%s is tried again.", .example = "task retry t17"},
    {.command = "task", .verb = "skip", .arguments = "TASK REASON", .summary = "count it as done, and say why", .method = "POST",
     .path = "/v1/tasks/{0}/skip", .fields = skip_fields, .done = "%s is skipped.", .example = "task skip t17 'no test instance wanted'"},
    {.command = "task", .verb = "cancel", .arguments = "TASK", .summary = "stop a task", .method = "POST", .path = "/v1/tasks/{0}/cancel",
     .done = "%s is being stopped.", .example = "task cancel t17"},
    {.command = "task", .verb = "artifact", .arguments = "TASK NAME", .summary = "a file that a task kept, such as a picture", .options = file_option,
     .run = cli_run_task_artifact, .example = "task artifact t17 screen.png --file screen.png"},

    {.command = "report", .arguments = "WAVE", .summary = "a wave's report", .options = report_options, .run = cli_run_report, .columns = report_one,
     .sections = report_sections, .example = "report wave-1 --html report.html"},
    {.command = "watch", .summary = "what happens, as it happens", .options = watch_options, .run = cli_run_watch, .example = "watch --wave wave-1"},
    {.command = "audit", .summary = "who did what", .options = audit_options, .method = "GET", .path = "/v1/audit?after={after}&wave={wave}&limit={limit}",
     .columns = audit_list, .example = "audit --wave wave-1 --limit 50"},

    {.command = "point", .verb = "list", .arguments = "SERVER", .summary = "a server's recovery points, newest first", .options = point_list_options,
     .run = cli_run_point_list, .columns = point_list, .example = "point list web01 --vault /var/lib/slipway"},
    {.command = "point", .verb = "take", .summary = "recovery points of several servers at one instant: of all, or none", .options = point_take_options,
     .run = cli_run_point_take, .columns = group_one, .sections = group_sections,
     .example = "point take --application shop --consistency frozen --vault /var/lib/slipway"},
    {.command = "point", .verb = "show", .arguments = "POINT", .summary = "one point and its disks", .options = vault_option,
     .run = cli_run_point_show, .columns = point_one, .sections = point_sections, .example = "point show 20261124T203402123Z-17-4be1 --vault /var/lib/slipway"},
    {.command = "point", .verb = "export", .arguments = "POINT",
     .summary = "a point's disks as image files: raw, qcow2, VMDK, VHDX; compared with the point",
     .options = point_export_options, .run = cli_run_point_export, .columns = image_list,
     .example = "point export 20261124T203402123Z-17-4be1 --to /srv/images --format vmdk --vault /var/lib/slipway"},
    {.command = "point", .verb = "serve", .arguments = "POINT", .summary = "serve a point's disks over NBD, read-only, until ctrl-C",
     .options = vault_option, .run = cli_run_point_serve, .example = "point serve 20261124T203402123Z-17-4be1 --vault /var/lib/slipway"},
    {.command = "point", .verb = "files", .arguments = "POINT FOLDER", .summary = "what a folder of the point holds", .options = point_files_options,
     .run = cli_run_point_files, .columns = entry_list, .example = "point files 20261124T203402123Z-17-4be1 /etc --vault /var/lib/slipway"},
    {.command = "point", .verb = "fetch", .arguments = "POINT PATH", .summary = "one file of the point", .options = point_fetch_options,
     .run = cli_run_point_fetch, .example = "point fetch 20261124T203402123Z-17-4be1 /etc/fstab --to fstab --vault /var/lib/slipway"},
    {.command = "point", .verb = "verify", .arguments = "POINT",
     .summary = "read and check all that the vault holds of it, and compare it with its source, block by block",
     .options = point_verify_options, .run = cli_run_point_verify, .example = "point verify 20261124T203402123Z-17-4be1 --vault /var/lib/slipway"},
    {.command = "point", .verb = "pin", .arguments = "POINT", .summary = "keep a point, whatever its age", .options = point_pin_options,
     .run = cli_run_point_pin, .done = "%s is kept until it is unpinned.",
     .example = "point pin 20261124T203402123Z-17-4be1 --reason audit --vault /var/lib/slipway"},
    {.command = "point", .verb = "unpin", .arguments = "POINT", .summary = "let a kept point go when its time comes", .options = point_unpin_options,
     .run = cli_run_point_unpin, .done = "%s is no longer kept.", .example = "point unpin 20261124T203402123Z-17-4be1 --vault /var/lib/slipway"},
    {.command = "point", .verb = "drop", .arguments = "POINT", .summary = "remove a point now; the room comes back with the next sweep",
     .options = point_drop_options, .run = cli_run_point_drop, .asks = "Remove the recovery point %s?", .done = "%s is removed.",
     .example = "point drop 20261124T203402123Z-17-4be1 --yes --vault /var/lib/slipway"},
    {.command = "point", .verb = "boot", .arguments = "SERVER", .summary = "let a source in rescue, whose disks are restored, boot from them",
     .options = point_drop_options, .run = cli_run_point_boot,
     .asks = "Let %s boot from its restored disks? The launched machine, which has the same address, must be stopped.", .done = "%s boots.",
     .example = "point boot web01 --yes --vault /var/lib/slipway"},
    {.command = "target", .verb = "list", .summary = "targets", .method = "GET", .path = "/v1/targets", .columns = target_list, .example = "target list"},
    {.command = "target", .verb = "probe", .summary = "launch a probe machine on the target and remove it; look at the source network",
     .run = cli_run_target_probe, .done = "Both probes passed.", .example = "target probe"},
    {.command = "runner", .verb = "list", .summary = "runners", .method = "GET", .path = "/v1/runners", .columns = peer_list, .example = "runner list"},
    {.command = "runner", .verb = "revoke", .arguments = "NAME", .summary = "end a runner's certificates", .options = yes_option, .method = "DELETE",
     .path = "/v1/runners/{0}", .asks = "Revoke the runner %s?", .done = "%s is revoked.", .example = "runner revoke dc1"},
    {.command = "replicator", .verb = "list", .summary = "replicators", .method = "GET", .path = "/v1/replicators", .columns = replicator_list,
     .example = "replicator list"},
    {.command = "replicator", .verb = "drain", .arguments = "NAME", .summary = "give its servers to others while they run; it takes no more", .options = drain_options,
     .method = "POST", .path = "/v1/replicators/{0}/drain", .fields = drain_fields, .columns = drained_one, .sections = drained_sections,
     .asks = "Give the servers of %s to other replicators?", .example = "replicator drain staging1"},
    {.command = "replicator", .verb = "undrain", .arguments = "NAME", .summary = "let it take servers again", .method = "DELETE", .path = "/v1/replicators/{0}/drain",
     .done = "%s takes servers again.", .example = "replicator undrain staging1"},
    {.command = "replicator", .verb = "revoke", .arguments = "NAME", .summary = "end a replicator's certificates", .options = yes_option,
     .method = "DELETE", .path = "/v1/replicators/{0}", .asks = "Revoke the replicator %s?", .done = "%s is revoked.", .example = "replicator revoke staging1"},
    {.command = "enrol", .arguments = "KIND NAME", .summary = "a one-time token for a runner or a replicator", .options = enrol_options, .method = "POST",
     .path = "/v1/enrolments", .fields = enrol_fields, .columns = enrolment_one, .example = "enrol runner dc1 --label source:dc1"},

    {.command = "user", .verb = "list", .summary = "all users", .method = "GET", .path = "/v1/users", .columns = user_list, .example = "user list"},
    {.command = "user", .verb = "add", .arguments = "NAME", .summary = "add a user", .options = user_options, .method = "POST", .path = "/v1/users",
     .fields = user_fields, .done = "%s is added.", .example = "user add anna --role operator --password-file password.txt"},
    {.command = "user", .verb = "password", .arguments = "NAME", .summary = "set a password; ends the user's sessions", .options = password_options,
     .method = "PUT", .path = "/v1/users/{0}/password", .fields = password_fields, .done = "The password of %s is set.",
     .example = "user password anna --password-file password.txt"},
    {.command = "user", .verb = "remove", .arguments = "NAME", .summary = "remove a user, with sessions and tokens", .options = yes_option,
     .method = "DELETE", .path = "/v1/users/{0}", .asks = "Remove the user %s?", .done = "%s is removed.", .example = "user remove anna"},
    {.command = "token", .verb = "list", .summary = "your tokens", .method = "GET", .path = "/v1/tokens", .columns = token_list, .example = "token list"},
    {.command = "token", .verb = "create", .arguments = "NAME", .summary = "make a token; it is told once", .options = token_options, .method = "POST",
     .path = "/v1/tokens", .fields = token_fields, .columns = token_one, .example = "token create nightly-report --expires 90d"},
    {.command = "token", .verb = "revoke", .arguments = "ID", .summary = "end a token", .method = "DELETE", .path = "/v1/tokens/{0}", .done = "The token is revoked.",
     .example = "token revoke 7"},
    {.command = "credential", .verb = "list", .summary = "credentials, without their secrets", .method = "GET", .path = "/v1/credentials",
     .columns = credential_list, .example = "credential list"},
    {.command = "credential", .verb = "add", .arguments = "NAME", .summary = "keep a credential, sealed; one of that name is replaced",
     .options = credential_options, .run = cli_run_credential_add, .done = "The credential %s is kept.",
     .example = "credential add linux --user migrate --key-file id_ed25519 --sudo nopasswd"},
    {.command = "credential", .verb = "remove", .arguments = "NAME", .summary = "forget a credential", .options = yes_option, .method = "DELETE",
     .path = "/v1/credentials/{0}", .asks = "Forget the credential %s?", .done = "%s is forgotten.", .example = "credential remove linux"},
    {.command = "settings", .verb = "show", .summary = "the factory's settings", .run = cli_run_settings_show, .example = "settings show"},
    {.command = "settings", .verb = "get", .arguments = "NAME", .summary = "one of them", .run = cli_run_settings_show, .example = "settings get target"},
    {.command = "settings", .verb = "set", .arguments = "NAME JSON",
     .summary = "change one (JSON, a file of it, or \"-\": standard input; null removes it; of replication, only the members that are named)",
     .run = cli_run_settings_set, .done = "%s is set.", .example = "settings set target '{\"name\":\"local-qemu\"}'"},
    {.command = "backup", .summary = "copy database and keys, consistently, into the factory's data folder", .method = "POST", .path = "/v1/backups",
     .columns = backup_one, .example = "backup"},
    {.command = "completion", .arguments = "SHELL", .summary = "completion for bash or zsh", .run = cli_run_completion,
     .example = "completion bash > /etc/bash_completion.d/slipway"},
    {.command = NULL},
};
