#include "api/schemas.h"

#include <stddef.h>
#include <string.h>

const struct schema schema_table[] = {
    {"Any", ""},
    {"Problem", "type:string! title:string! status:integer! detail:string! kind:string! instance:string faults:[object]"},
    {"List", "items:[object]! next:string?"},
    {"Named", "name:string!"},
    {"Health", "status:string!"},
    {"SignIn", "name:string! password:string!"},
    {"Me", "name:string! role:string! admin:boolean! csrf:string!"},
    {"Session", "user:Me! csrf:string!"},
    {"NewUser", "name:string! password:string! role:string admin:boolean"},
    {"User", "name:string! role:string! admin:boolean!"},
    {"Password", "password:string!"},
    {"NewToken", "name:string! expires_in:any"},
    {"Token", "id:string! token:string! name:string! expires:time?"},
    {"Window", "opens:time! closes:time! time_zone:string! notice:string?"},
    {"NewWave", "name:string! title:string? settings:object"},
    {"WaveChange", "title:string? settings:object"},
    {"Wave", "name:string! title:string? stage:string! health:string! window:Window? run:string? settings:object! server_count:integer! "
             "lifecycle:object! version:integer! created:time!"},
    {"WaveList", "items:[Wave]! next:string? total:integer"},
    {"RunStarted", "run:string!"},
    {"ProbeStarted", "run:string! source_run:string!"},
    {"Report", "result:string! started:time? finished:time? accelerator:string? servers:[object]! rows:object? replication:object? "
               "stages:[object]! refusals:[object]!"},
    {"Point", "id:string? at:time? consistency:string? freeze_ms:integer? group:string? group_window_us:integer?"},
    {"Disk", "id:string! name:string! size_bytes:integer!"},
    {"Replication", "state:string! bytes_total:integer bytes_read:integer bytes_sent:integer bytes_stored:integer backlog_bytes:integer "
                    "lag_ms:integer? eta_ms:integer? eta:string? rate_bytes_per_s:integer? churn_bytes_per_s:integer? limit_bytes_per_s:integer "
                    "bottleneck:string? newest_point:string? newest_point_at:time? "
                    "rescan:object? newest_point_age_ms:integer? newest_point_unreadable_bytes:integer? unreadable_bytes:integer disks_missing:[object] rescue:Rescue? copy:SecondCopy? copied_from:string? error:any cause:Cause?"},
    {"SecondCopy", "to:string! state:string! point:string? point_at:time? point_age_ms:integer? lag_ms:integer! bytes_total:integer! backlog_bytes:integer! "
                   "pins_missing:integer! error:any error_since:time?"},
    {"Rescue", "point:string! state:string! message:string! at:time!"},
    {"Cause", "kind:string! severity:string! text:string! advice:string!"},
    {"Instance", "name:string! kind:string! door:string! state:string!"},
    {"NewServer", "name:string! wave:string! application:string? owner:string? address:string! port:integer attributes:object"},
    {"ServerChange", "wave:string application:string? owner:string? address:string port:integer attributes:object host_key:string?"},
    {"Server", "name:string! wave:string? application:string? owner:string? address:string! port:integer! lifecycle:string! attributes:object! "
               "facts:object? disks:[Disk]! replication:Replication? placement:object? copy:object? replication_settings:object? points:[Point] instance:Instance? host_key:string? version:integer!"},
    {"ServerList", "items:[Server]! next:string? total:integer"},
    {"Back", "confirm:string? bring_changes:boolean"},
    {"Move", "to:string? lost:boolean"},
    {"Moving", "server:string! to:string! run:string?"},
    {"Drained", "moving:[object]! staying:[object]!"},
    {"Import", "applied:boolean! counts:object! changes:[object]! faults:[object]!"},
    {"WaitsFor", "kind:string! what:string until:time?"},
    {"Task", "id:string! run:string! name:string! title:string! phase:string! step:string? server:string? state:string! waits_for:WaitsFor? "
             "attempt:integer! started:time? finished:time? progress:object? error:object? evidence_count:integer! evidence_failed:integer! "
             "evidence:[object] artifacts:[object] attempts:[object] result:object?"},
    {"Run", "id:string! template:string! title:string! wave:string? server:string? parent:string? state:string! stage:string health:string actor:string started:time? finished:time? "
            "tasks:[Task]"},
    {"RunList", "items:[Run]! next:string?"},
    {"Decision", "decision:string! note:string?"},
    {"Skip", "reason:string!"},
    {"Event", "id:integer! at:time! actor:string! kind:string! wave:string? entity:string! entity_id:string! data:object!"},
    {"EventList", "items:[Event]! next:string?"},
    {"Check", "phase:string! name:string! title:string! passed:boolean! evidence:string! advice:string?"},
    {"Doctor", "passed:boolean! checks:[Check]!"},
    {"Credential", "name:string! kind:string! user:string secret:string! sudo:string sudo_secret:string"},
    {"Settings", "replicator:object target:object cmdb:object credential:object sources:object replication:object backup:object"},
    {"Backup", "path:string!"},
    {"NewEnrolment", "kind:string! name:string! labels:[string] ttl_s:integer"},
    {"Enrolment", "token:string! expires:time! ca_fingerprint:string!"},
    {"Enrol", "token:string! csr_pem:string!"},
    {"Enrolled", "certificate_pem:string! ca_pem:string! name:string!"},
    {"Claim", "labels:[string]! steps:[string]! wait_ms:integer clock:time"},
    {"TaskDocument", "attempt:string! fence:integer! lease_ms:integer! timeout_ms:integer! task:object! run:object! wave:object? server:object? "
                     "facts:object? context:object! credential:object? enrolment:object? settings:object! api_url:string! ca_pem:string!"},
    {"AttemptReport", "fence:integer! progress:object evidence:[object] log:[string]"},
    {"AttemptAnswer", "cancelled:boolean! lease_ms:integer!"},
    {"AttemptFinish", "fence:integer! outcome:string! error:object? result:object?"},
    {"ReplicatorStatus", "servers:[object]! vault:object shares:object control_socket:string address:string port:integer"},
    {"VaultKeys", "keys:[string]!"},
    {"ReplicatorOrders", "unknown:[string]! servers:object! groups:object! parts:object! places:object! copies:object!"},
    {NULL, NULL},
};

const struct schema *schema_find(const char *name)
{
    for (const struct schema *s = schema_table; s->name; s++)
        if (strcmp(s->name, name) == 0)
            return s;
    return NULL;
}
