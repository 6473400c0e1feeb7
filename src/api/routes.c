/* The table of routes. The OpenAPI document is made from it, and a test holds every row to its access. */
#include "api/routes.h"
#include "api/api.h"

#define LIST "limit,page"
#define ROUTE(method_, path_, run_, access_, ...) {.method = HTTP_##method_, .path = path_, .run = run_, .access = ACCESS_##access_, __VA_ARGS__}
#define JSON .input = INPUT_JSON

const struct http_route api_routes[] = {
    ROUTE(POST, "/v1/sessions", route_session_create, PUBLIC, JSON, .status = 201, .summary = "Sign in: sets the session cookie", .takes = "SignIn", .gives = "Session"),
    ROUTE(DELETE, "/v1/sessions/current", route_session_end, VIEWER, .summary = "Sign out"),
    ROUTE(GET, "/v1/me", route_me, VIEWER, .summary = "Who am I", .gives = "Me"),
    ROUTE(GET, "/v1/users", route_users, ADMIN, .summary = "List users", .gives = "List"),
    ROUTE(POST, "/v1/users", route_user_add, ADMIN, JSON, .status = 201, .summary = "Add a user", .takes = "NewUser", .gives = "User"),
    ROUTE(PUT, "/v1/users/{name}/password", route_user_password, VIEWER, JSON, .summary = "Set a password: one's own, or as an admin anybody's", .takes = "Password"),
    ROUTE(DELETE, "/v1/users/{name}", route_user_remove, ADMIN, .summary = "Remove a user with their sessions and tokens"),
    ROUTE(GET, "/v1/tokens", route_tokens, VIEWER, .summary = "List one's API tokens", .gives = "List"),
    ROUTE(POST, "/v1/tokens", route_token_make, VIEWER, JSON, .status = 201, .summary = "Make an API token; it is told once", .takes = "NewToken", .gives = "Token"),
    ROUTE(DELETE, "/v1/tokens/{id}", route_token_remove, VIEWER, .summary = "Remove an API token"),

    ROUTE(GET, "/v1/waves", route_waves, VIEWER, .query = LIST ",q,sort", .summary = "List waves", .gives = "WaveList"),
    ROUTE(POST, "/v1/waves", route_wave_create, OPERATOR, JSON, .status = 201, .summary = "Create a wave", .takes = "NewWave", .gives = "Wave"),
    ROUTE(GET, "/v1/waves/{wave}", route_wave, VIEWER, .summary = "Read a wave", .gives = "Wave"),
    ROUTE(PATCH, "/v1/waves/{wave}", route_wave_update, OPERATOR, JSON, .summary = "Change a wave's title or settings", .takes = "WaveChange", .gives = "Wave"),
    ROUTE(PUT, "/v1/waves/{wave}/window", route_wave_window, OPERATOR, JSON, .summary = "Set the cutover window", .takes = "Window", .gives = "Wave"),
    ROUTE(POST, "/v1/waves/{wave}/start", route_wave_start, OPERATOR, JSON, .status = 202, .summary = "Start the wave's run", .gives = "RunStarted"),
    ROUTE(POST, "/v1/waves/{wave}/cutover", route_wave_cutover, OPERATOR, JSON, .summary = "Cut over now: refused outside the window"),
    ROUTE(PUT, "/v1/waves/{wave}/measurements/{name}", route_measure, OPERATOR, JSON, .summary = "Keep what somebody outside measured", .takes = "Any"),
    ROUTE(GET, "/v1/waves/{wave}/report", route_wave_report, READER, .summary = "The wave's report", .gives = "Report"),
    ROUTE(GET, "/v1/waves/{wave}/report.html", route_wave_report_html, READER, .summary = "The wave's report as one page", .gives = "text/html"),

    ROUTE(GET, "/v1/servers", route_servers, VIEWER, .query = LIST ",q,sort,wave,lifecycle,trouble", .summary = "List servers; trouble: those whose replication has a cause that is more than info", .gives = "ServerList"),
    ROUTE(POST, "/v1/servers", route_server_create, OPERATOR, JSON, .status = 201, .summary = "Add a server", .takes = "NewServer", .gives = "Server"),
    ROUTE(GET, "/v1/servers/{server}", route_server, VIEWER, .summary = "Read a server", .gives = "Server"),
    ROUTE(PATCH, "/v1/servers/{server}", route_server_update, OPERATOR, JSON, .summary = "Change a server, or pin its SSH host key", .takes = "ServerChange", .gives = "Server"),
    ROUTE(POST, "/v1/servers/{server}/back", route_server_back, OPERATOR, JSON, .status = 202, .summary = "Take a server back to its source", .takes = "Back", .gives = "RunStarted"),
    ROUTE(POST, "/v1/servers/{server}/stay", route_server_stay, OPERATOR, JSON, .status = 202, .summary = "Call a way back with changes off: the launched machine serves on", .gives = "RunStarted"),
    ROUTE(POST, "/v1/servers/{server}/cutover", route_server_cutover, OPERATOR, JSON, .summary = "Cut a server over (again, after a way back)"),
    ROUTE(POST, "/v1/servers/{server}/pause", route_server_pause, OPERATOR, JSON, .summary = "Pause its replication; changes are marked meanwhile"),
    ROUTE(POST, "/v1/servers/{server}/resume", route_server_resume, OPERATOR, JSON, .summary = "Let its replication go on"),
    ROUTE(POST, "/v1/servers/{server}/move", route_server_move, OPERATOR, JSON, .status = 202, .summary = "Give a server to another replicator while it runs", .takes = "Move", .gives = "Moving"),
    ROUTE(POST, "/v1/servers/{server}/push", route_server_push, OPERATOR, JSON, .status = 202, .summary = "Push a server's agent again, with a new certificate", .gives = "RunStarted"),
    ROUTE(POST, "/v1/servers/{server}/open", route_server_open, OPERATOR, JSON, .summary = "Open the instance to its clients"),
    ROUTE(POST, "/v1/servers/{server}/finalize", route_server_finalize, OPERATOR, JSON, .summary = "Finalize: no way back after"),
    ROUTE(POST, "/v1/servers/{server}/decommission", route_server_decommission, OPERATOR, JSON, .summary = "Decommission the source machine"),
    ROUTE(GET, "/v1/applications", route_applications, VIEWER, .summary = "List applications", .gives = "List"),
    ROUTE(POST, "/v1/imports", route_import, OPERATOR, .input = INPUT_BYTES, .limit_bytes = LIMIT_REQUEST_BODY_BYTES, .query = "dry_run,create_waves", .summary = "Import servers from CSV, or preview it", .takes = "text/csv", .gives = "Import"),
    ROUTE(GET, "/v1/exports", route_export, VIEWER, .query = "wave", .summary = "Servers as CSV that imports read", .gives = "text/csv"),

    ROUTE(GET, "/v1/runs", route_runs, VIEWER, .query = LIST ",wave", .summary = "List runs, newest first", .gives = "RunList"),
    ROUTE(GET, "/v1/runs/{id}", route_run, VIEWER, .summary = "Read a run with its tasks", .gives = "Run"),
    ROUTE(POST, "/v1/runs/{id}/cancel", route_run_cancel, OPERATOR, JSON, .summary = "Cancel a run"),
    ROUTE(POST, "/v1/probes", route_probe, OPERATOR, JSON, .status = 202, .summary = "Probe the target (launch and remove a machine) and the source network; doctor reads the outcome", .gives = "ProbeStarted"),
    ROUTE(GET, "/v1/tasks/{id}", route_task, VIEWER, .summary = "Read a task with its evidence", .gives = "Task"),
    ROUTE(POST, "/v1/tasks/{id}/decide", route_task_decide, OPERATOR, JSON, .summary = "Approve or reject a task that waits for a person", .takes = "Decision"),
    ROUTE(POST, "/v1/tasks/{id}/retry", route_task_retry, OPERATOR, JSON, .summary = "Try a failed task again"),
    ROUTE(POST, "/v1/tasks/{id}/cancel", route_task_cancel, OPERATOR, JSON, .summary = "Stop a task"),
    ROUTE(POST, "/v1/tasks/{id}/skip", route_task_skip, OPERATOR, JSON, .summary = "Leave a task out, with a reason", .takes = "Skip"),
    ROUTE(GET, "/v1/tasks/{id}/artifacts/{name}", route_artifact, VIEWER, .summary = "An artifact's bytes", .gives = "application/octet-stream"),

    ROUTE(GET, "/v1/events", route_events, VIEWER, .query = "wave,after", .summary = "Live events (server-sent); Last-Event-ID resumes", .gives = "text/event-stream"),
    ROUTE(GET, "/v1/audit", route_audit, VIEWER, .query = "after,wave,limit,newest,page", .summary = "Stored events, oldest first, or the newest", .gives = "EventList"),
    ROUTE(GET, "/v1/doctor", route_doctor, VIEWER, .summary = "Check phase 1 line by line", .gives = "Doctor"),
    ROUTE(GET, "/v1/runners", route_runners, VIEWER, .summary = "List runners", .gives = "List"),
    ROUTE(DELETE, "/v1/runners/{name}", route_runner_revoke, OPERATOR, .summary = "Revoke a runner's certificates"),
    ROUTE(GET, "/v1/replicators", route_replicators, VIEWER, .summary = "List replicators with their last status", .gives = "List"),
    ROUTE(DELETE, "/v1/replicators/{name}", route_replicator_revoke, OPERATOR, .summary = "Revoke a replicator's certificates"),
    ROUTE(POST, "/v1/replicators/{name}/drain", route_replicator_drain, OPERATOR, JSON, .status = 202, .summary = "Give its servers to others; it takes no more", .takes = "Move", .gives = "Drained"),
    ROUTE(DELETE, "/v1/replicators/{name}/drain", route_replicator_undrain, OPERATOR, .summary = "Let it take servers again"),
    ROUTE(GET, "/v1/agents", route_agents, VIEWER, .summary = "List enrolled agents", .gives = "List"),
    ROUTE(DELETE, "/v1/agents/{name}", route_agent_revoke, OPERATOR, .summary = "Revoke the certificates of a server's agent"),
    ROUTE(GET, "/v1/targets", route_targets, VIEWER, .summary = "The target and its last probe", .gives = "List"),
    ROUTE(GET, "/v1/credentials", route_credentials, OPERATOR, .summary = "List credentials, without their secrets", .gives = "List"),
    ROUTE(POST, "/v1/credentials", route_credential_put, OPERATOR, JSON, .status = 201, .summary = "Keep a credential, sealed", .takes = "Credential", .gives = "Named"),
    ROUTE(DELETE, "/v1/credentials/{name}", route_credential_remove, OPERATOR, .summary = "Remove a credential"),
    ROUTE(GET, "/v1/settings", route_settings, VIEWER, .summary = "The factory's settings", .gives = "Settings"),
    ROUTE(PUT, "/v1/settings", route_settings_put, OPERATOR, JSON, .summary = "Change settings: named members are replaced, null removes", .takes = "Settings", .gives = "Settings"),
    ROUTE(GET, "/v1/backups", route_backups, OPERATOR, .summary = "List backups", .gives = "List"),
    ROUTE(POST, "/v1/backups", route_backup, OPERATOR, JSON, .status = 201, .summary = "A consistent copy of database and keys", .gives = "Backup"),

    ROUTE(POST, "/v1/enrolments", route_enrolment_make, OPERATOR, JSON, .status = 201, .summary = "Make a one-time token for a runner, replicator or agent", .takes = "NewEnrolment", .gives = "Enrolment"),
    ROUTE(POST, "/v1/enrol", route_enrol, PUBLIC, JSON, .status = 201, .summary = "Spend a one-time token on a certificate", .takes = "Enrol", .gives = "Enrolled"),
    ROUTE(POST, "/v1/runner/claim", route_claim, RUNNER, JSON, .summary = "Claim a task; waits up to wait_ms, then 204", .takes = "Claim", .gives = "TaskDocument"),
    ROUTE(POST, "/v1/runner/attempts/{id}/report", route_attempt_report, RUNNER, JSON, .limit_bytes = LIMIT_JSON_BYTES, .summary = "Report progress, renew the lease", .takes = "AttemptReport", .gives = "AttemptAnswer"),
    ROUTE(PUT, "/v1/runner/attempts/{id}/artifacts/{name}", route_attempt_artifact, RUNNER, .input = INPUT_BYTES, .limit_bytes = LIMIT_ARTIFACT_BYTES, .query = "fence", .summary = "Keep an artifact", .takes = "application/octet-stream"),
    ROUTE(POST, "/v1/runner/attempts/{id}/finish", route_attempt_finish, RUNNER, JSON, .limit_bytes = LIMIT_JSON_BYTES, .summary = "Finish an attempt; the same twice is fine", .takes = "AttemptFinish"),
    ROUTE(GET, "/v1/replicator/vault-keys", route_vault_keys, REPLICATOR, .summary = "The keys of the asking replicator's vault, the newest first", .gives = "VaultKeys"),
    ROUTE(POST, "/v1/replicator/vault-keys", route_vault_key_make, REPLICATOR, JSON, .status = 201, .summary = "Make a new key, and give all", .gives = "VaultKeys"),
    ROUTE(POST, "/v1/replicator/status", route_replicator_status, REPLICATOR, JSON, .limit_bytes = LIMIT_JSON_BYTES, .summary = "What a replicator says of its servers and its vault; it is told how they are to be replicated", .takes = "ReplicatorStatus", .gives = "ReplicatorOrders"),

    ROUTE(GET, "/healthz", route_health, PUBLIC, .quick = true, .summary = "The process answers", .gives = "Health"),
    ROUTE(GET, "/readyz", route_ready, PUBLIC, .summary = "The store can be written and the children are up", .gives = "Health"),
    ROUTE(GET, "/metrics", route_metrics, VIEWER, .summary = "Numbers for Prometheus", .gives = "text/plain"),
    ROUTE(GET, "/openapi.json", route_openapi, PUBLIC, .summary = "This document", .gives = "Any"),
};
const size_t api_route_count = ARRAY_COUNT(api_routes);

const struct http_route api_console_route = ROUTE(GET, "/", route_console, PUBLIC, .quick = true, .summary = "The console");
