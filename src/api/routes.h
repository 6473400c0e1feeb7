/* routes: the handlers, for the table in routes.c. */
#pragma once

#include "api/httpd.h"

http_handler route_session_create, route_session_end, route_me;
http_handler route_users, route_user_add, route_user_password, route_user_remove, route_tokens, route_token_make, route_token_remove;
http_handler route_enrolment_make, route_enrol, route_runners, route_agents, route_agent_revoke, route_runner_revoke, route_replicator_revoke, route_vault_keys, route_vault_key_make;
http_handler route_credentials, route_credential_put, route_credential_remove;
http_handler route_waves, route_wave, route_wave_create, route_wave_update, route_wave_window, route_wave_start, route_wave_cutover;
http_handler route_measure, route_wave_report, route_wave_report_html;
http_handler route_servers, route_server, route_server_create, route_server_update;
http_handler route_server_cutover, route_server_open, route_server_pause, route_server_resume, route_server_finalize, route_server_decommission, route_server_back, route_server_stay, route_server_move, route_server_push;
http_handler route_applications, route_import, route_export;
http_handler route_runs, route_run, route_run_cancel, route_task, route_task_decide, route_task_retry, route_task_cancel, route_task_skip;
http_handler route_artifact, route_probe;
http_handler route_claim, route_attempt_report, route_attempt_artifact, route_attempt_finish;
http_handler route_replicators, route_replicator_drain, route_replicator_undrain, route_replicator_status, route_targets, route_settings, route_settings_put;
http_handler route_events, route_audit, route_doctor, route_backup, route_backups;
http_handler route_health, route_ready, route_metrics, route_openapi, route_console;
