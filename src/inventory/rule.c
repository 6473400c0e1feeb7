#include "inventory/rule.h"

#include "base/calendar.h"
#include "base/ladder.h"
#include "base/limits.h"
#include "base/proxy.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PROGRAM_MAX 255 /* the agent keeps no longer one */
#define SERVER_NAME_MAX 53 /* "agent:NAME~copy" is a certificate's common name, which has at most 64 bytes (RFC 5280, ub-common-name) */
#define TEXT_MAX 256
#define LONG_TEXT_MAX 4096
#define YEAR_S (INT64_C(366) * 86400)

static const char letters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";

static bool is_name(const char *text, size_t length, size_t max)
{
    if (length == 0 || length > max || !strchr(letters, text[0]))
        return false;
    for (size_t i = 0; i < length; i++)
        if (!strchr(letters, text[i]) && !strchr("._-", text[i]))
            return false;
    return true;
}

static bool is_names(const char *text)
{
    for (const char *at = text;; at++) {
        size_t length;

        at += strspn(at, " ");
        length = strcspn(at, ", ");
        if (!is_name(at, length, SERVER_NAME_MAX))
            return false;
        at += length;
        at += strspn(at, " ");
        if (!*at)
            return true;
        if (*at != ',')
            return false;
    }
}

/* A host name (RFC 1123). One that only has digits and dots is an address with a mistake. */
static bool is_host(const char *text)
{
    size_t length = strlen(text);

    if (!is_name(text, length, 253) || strchr(text, '_') || strstr(text, "..") || strspn(text, "0123456789.") == length)
        return false;
    return text[length - 1] != '.' && text[length - 1] != '-';
}

static bool is_address(const char *text)
{
    unsigned char bytes[16];

    return inet_pton(AF_INET, text, bytes) == 1 || inet_pton(AF_INET6, text, bytes) == 1 || is_host(text);
}

static bool is_cidr(const char *text)
{
    CLEANUP(free_ptr) char *address = xstrdup(text);
    char *slash = strchr(address, '/');
    unsigned char bytes[16];
    int bits, most;

    if (!slash || !slash[1] || strlen(slash + 1) > 3 || slash[1 + strspn(slash + 1, "0123456789")])
        return false;
    *slash = 0;
    bits = atoi(slash + 1);
    most = inet_pton(AF_INET, address, bytes) == 1 ? 32 : inet_pton(AF_INET6, address, bytes) == 1 ? 128 : 0;
    return bits > 0 && bits <= most;
}

static bool is_port(const char *text)
{
    return *text && strlen(text) <= 5 && !text[strspn(text, "0123456789")] && atoi(text) > 0 && atoi(text) < 65536;
}

/* "nginx.service, postgresql@15-main": systemd's unit names. */
static bool is_services(const char *text)
{
    return *text && !text[strspn(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789:_.@-\\, ")] && text[0] != '-'
        && !strstr(text, ",,") && text[0] != ',' && text[strlen(text) - 1] != ',';
}

bool is_fingerprint(const char *text)
{
    size_t length = strlen(text);

    return strncmp(text, "SHA256:", 7) == 0 && length >= 7 + 43 && length <= 7 + 44
        && !text[7 + strspn(text + 7, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=")];
}

/* "user@host:port", the last part optional; several, separated by commas. */
static bool is_jump(const char *text)
{
    CLEANUP(free_ptr) char *copy = xstrdup(text);
    char *rest = copy;

    for (char *hop; (hop = strsep(&rest, ","));) {
        char *at = strchr(hop, '@'), *colon;

        if (!at || at == hop || hop[0] == '-' || hop[strcspn(hop, " \t;|&$`\"'\\")])
            return false;
        colon = strchr(at, ':');
        if (colon && !is_port(colon + 1))
            return false;
        if (colon)
            *colon = 0;
        if (!is_address(at + 1))
            return false;
    }
    return true;
}

/* What the agent's setting takes (base/proxy.h), without a login: secrets don't stand in attributes. */
static bool is_proxy(const char *text)
{
    struct proxy p;

    return proxy_parse(text, &p, NULL) == 0 && !*p.login;
}

static bool is_check(const char *check)
{
    const char *contains;

    if (strncmp(check, "command ", 8) == 0)
        return check[8 + strspn(check + 8, " ")] != 0;
    if (strncmp(check, "http://", 7) != 0 && strncmp(check, "https://", 8) != 0)
        return false;
    contains = strstr(check, " contains ");
    return contains && contains[10] && strcspn(check, " ") == (size_t)(contains - check);
}

/* "http://HOST:PORT/PATH contains TEXT; command CMD" */
static bool is_checks(const char *text)
{
    CLEANUP(free_ptr) char *copy = xstrdup(text);
    char *rest = copy;

    for (char *check; (check = strsep(&rest, ";"));) {
        check += strspn(check, " ");
        if (*check && !is_check(check))
            return false;
        if (!*check && rest)
            return false;
    }
    return true;
}

/* Run as it is, without a shell. */
static bool is_program(const char *text) { return text[0] == '/' && text[1] && text[strlen(text) - 1] != '/'; }
static int reads_rate(const char *text, struct err *e)
{
    int64_t rate;

    return rate_parse(text, &rate, e);
}

static int reads_calendar(const char *text, struct err *e)
{
    struct calendar calendar;

    return calendar_parse(text, &calendar, e);
}

static int reads_ladder(const char *text, struct err *e)
{
    struct ladder ladder;

    return ladder_parse(text, &ladder, e);
}

static int reads_zone(const char *text, struct err *e)
{
    CLEANUP(zone_free) struct zone *zone = NULL;

    return zone_open(text, &zone, e);
}

/* How a server is replicated: what is said of it holds before what is said of its wave, and that before the factory's (replication.c). */
#define BANDWIDTH {"bandwidth", "Network use, by calendar", RULE_READ, .max = LONG_TEXT_MAX, .reads = reads_calendar, .otherwise = "none", \
                   .hint = "for each server, as \"100Mbit/s; mon-fri 08:00-18:00 20Mbit/s; sun pause\", or none"}
#define COPY_RATE {"copy_rate", "Copied to the second replicator", RULE_READ, .max = TEXT_MAX, .reads = reads_rate, .otherwise = "none", .hint = "as 50MB/s, or none"}
#define COPY_TO {"copy_to", "Second copy of recovery points", RULE_NAME, .max = LIMIT_NAME_BYTES, .otherwise = "none", \
                 .hint = "a replicator's name; any: the factory chooses one; none"}
#define CPU_PERCENT {"cpu_percent", "Processor use of the agent", RULE_INT, .min = 1, .max = 6400, .hint = "100 is one processor"}
#define GROUP_POINTS {"group_points", "Points of an application's servers", RULE_CHOICE, .choices = (const char *const[]){"application", "none", NULL}, \
                      .otherwise = "none", .hint = "application: at one instant, all of them or none"}
#define POINT_INTERVAL_S {"point_interval_s", "Seconds between recovery points", RULE_INT, .min = 1, .max = 86400, .otherwise = "5"}
#define READ_RATE {"read_rate", "Read from disks", RULE_READ, .max = TEXT_MAX, .reads = reads_rate, .otherwise = "none", \
                   .hint = "outside points, as 200MB/s, or none"}
#define RESCAN_FREEZE_S {"rescan_freeze_s", "Standstill for a point where changes can't be followed", RULE_INT, .min = 0, .max = 14400, .otherwise = "0", \
                         .hint = "seconds at most, for as long as reading all disks takes; 0: no point but a cutover's"}
#define RESCAN_POINTS_S {"rescan_points_s", "Seconds between such points", RULE_INT, .min = 0, .max = 2592000, .otherwise = "0", .hint = "0: only those that are asked for"}
#define RETENTION {"retention", "Recovery points kept", RULE_READ, .max = TEXT_MAX, .reads = reads_ladder, .otherwise = "10m all, 1h 1m, 1d 1h, 3d 1d", \
                   .hint = "as \"10m all, 1h 1m, 1d 1h, 3d 1d\": all of ten minutes, one a minute for an hour, …"}
#define SHARED_BANDWIDTH {"shared_bandwidth", "Network use of all together, by calendar", RULE_READ, .max = LONG_TEXT_MAX, .reads = reads_calendar, \
                          .hint = "shared by the servers that have something to send"}
#define TIME_ZONE {"time_zone", "Time zone of calendars", RULE_READ, .max = ZONE_NAME_MAX, .reads = reads_zone, .otherwise = "UTC", \
                   .hint = "as Europe/Berlin"}

const struct rule replication_settings[] = {BANDWIDTH, COPY_RATE, COPY_TO, CPU_PERCENT, GROUP_POINTS, POINT_INTERVAL_S, READ_RATE, RESCAN_FREEZE_S, RESCAN_POINTS_S, RETENTION, SHARED_BANDWIDTH, TIME_ZONE, {0}};

const struct rule server_columns[] = {
    {"name", "Server", RULE_NAME, .required = true, .max = SERVER_NAME_MAX},
    {"wave", "Wave", RULE_NAME, .required = true, .max = LIMIT_NAME_BYTES},
    {"application", "Application", RULE_TEXT, .max = LIMIT_NAME_BYTES},
    {"owner", "Owner", RULE_TEXT, .max = TEXT_MAX},
    {"address", "Address", RULE_ADDRESS, .required = true},
    {"port", "SSH port", RULE_INT, .min = 1, .max = 65535},
    {0},
};

const struct rule server_attributes[] = {
    {"accept_mends", "Why the source may get disks that were mended for the target", RULE_TEXT, .max = TEXT_MAX,
     .hint = "a reason; without it a copy that was mended does not bring its changes home"},
    {"accept_unreadable", "Why a copy will do that lacks unreadable sectors", RULE_TEXT, .max = TEXT_MAX,
     .hint = "a reason; without it nothing is launched from a point that lacks sectors of its source"},
    {"after", "Cut over after", RULE_NAMES, .max = LONG_TEXT_MAX, .hint = "servers of the same wave that go first, separated by commas"},
    {"after_thaw", "Program after a freeze", RULE_FORM, .max = PROGRAM_MAX, .fits = is_program, .hint = "a program's path on the source, run without a shell"},
    {"before_freeze", "Program before a freeze", RULE_FORM, .max = PROGRAM_MAX, .fits = is_program, .hint = "a program's path on the source, run without a shell"},
    BANDWIDTH,
    {"bytes_per_s", "Network use at most", RULE_INT, .min = 1024, .max = INT64_C(1) << 40, .hint = "bytes a second that the agent sends"},
    {"checks", "Checks of the owner", RULE_FORM, .max = LONG_TEXT_MAX, .fits = is_checks,
     .hint = "\"http://HOST:PORT/PATH contains TEXT\" or \"command CMD\", separated by ;"},
    {"cmdb_id", "Record in the CMDB", RULE_TEXT, .max = TEXT_MAX},
    COPY_RATE,
    COPY_TO,
    {"cpu", "CPUs of the copy", RULE_INT, .min = 1, .max = 512},
    CPU_PERCENT,
    {"credential", "Credential", RULE_NAME, .max = LIMIT_NAME_BYTES},
    {"door", "Door at cutover", RULE_CHOICE, .choices = (const char *const[]){"auto", "ask", NULL}},
    {"freeze_budget_ms", "Longest freeze", RULE_INT, .min = 1, .max = 60000},
    GROUP_POINTS,
    {"jump", "Jump host", RULE_FORM, .max = TEXT_MAX, .fits = is_jump, .hint = "user@host or user@host:port"},
    {"jump_host_key", "Jump host's key", RULE_FORM, .max = TEXT_MAX, .fits = is_fingerprint, .hint = "SHA256: and 43 characters, as ssh-keygen -l prints it"},
    {"memory_bound_mib", "Memory of the agent at most", RULE_INT, .min = 48, .max = 1 << 20, .hint = "128 where nothing is said"},
    {"memory_mib", "Memory of the copy", RULE_INT, .min = 64, .max = 64 << 20},
    {"network", "Source network", RULE_NAME, .max = LIMIT_NAME_BYTES, .hint = "the NETWORK of the runner's label source:NETWORK"},
    {"parking_address", "Address after cutover", RULE_CIDR, .hint = "an address of its network that is free, as 192.0.2.7/24"},
    POINT_INTERVAL_S,
    {"proxy", "Proxy to the replicator", RULE_FORM, .max = TEXT_MAX, .fits = is_proxy, .hint = "http://ADDRESS:PORT, numeric; an HTTP proxy that allows CONNECT"},
    READ_RATE,
    RESCAN_FREEZE_S,
    RESCAN_POINTS_S,
    RETENTION,
    {"services", "Services to stop", RULE_FORM, .max = LONG_TEXT_MAX, .fits = is_services,
     .hint = "units in the order in which they stop, separated by commas"},
    {"target_network", "Network of the copy", RULE_TEXT, .max = LIMIT_NAME_BYTES},
    TIME_ZONE,
    {0},
};

const struct rule wave_settings[] = {
    BANDWIDTH,
    {"boot_s", "Time for a copy's first login", RULE_INT, .min = 1, .max = 86400},
    {"clock_skew_limit_ms", "Clock skew allowed", RULE_INT, .min = 1, .max = 86400000},
    COPY_RATE,
    COPY_TO,
    CPU_PERCENT,
    GROUP_POINTS,
    {"hold_s", "Hold before decommissioning", RULE_INT, .min = 0, .max = 10 * YEAR_S},
    {"host_keys", "New SSH host keys", RULE_CHOICE, .choices = (const char *const[]){"ask", "accept-first", NULL}},
    {"lag_limit_ms", "Replication lag allowed", RULE_INT, .min = 1, .max = 86400000},
    {"network", "Source network", RULE_NAME, .max = LIMIT_NAME_BYTES},
    {"point_age_limit_ms", "Age of the newest point allowed", RULE_INT, .min = 1, .max = 86400000},
    POINT_INTERVAL_S,
    READ_RATE,
    RESCAN_FREEZE_S,
    RESCAN_POINTS_S,
    RETENTION,
    {"services_s", "Time for services after a boot", RULE_INT, .min = 1, .max = 86400},
    SHARED_BANDWIDTH,
    TIME_ZONE,
    {"right_size_measure_s", "How long right-sizing measures", RULE_INT, .min = 1, .max = YEAR_S},
    {"right_size_after_s", "Measured before right-sizing", RULE_INT, .min = 0, .max = YEAR_S},
    {0},
};

const struct rule *rule_find(const struct rule *table, const char *name)
{
    for (; table->name; table++)
        if (strcmp(table->name, name) == 0)
            return table;
    return NULL;
}

char *rule_names(const struct rule *table)
{
    struct buf names;

    buf_init(&names, 0);
    for (const struct rule *r = table; r->name; r++)
        buf_printf(&names, "%s%s", r == table ? "" : ", ", r->name);
    return buf_take(&names);
}

__attribute__((format(printf, 2, 3))) static bool refuse(char reason[static RULE_REASON_SIZE], const char *format, ...)
{
    va_list args;

    va_start(args, format);
    vsnprintf(reason, RULE_REASON_SIZE, format, args);
    va_end(args);
    return false;
}

static bool read_int(const char *text, int64_t *out)
{
    char *end;

    errno = 0;
    *out = strtoll(text, &end, 10);
    return *text && strchr("-0123456789", *text) && !*end && !errno;
}

static bool check_int(const struct rule *r, int64_t value, char reason[static RULE_REASON_SIZE])
{
    if (value < r->min || value > r->max)
        return refuse(reason, "must be a whole number from %lld to %lld", (long long)r->min, (long long)r->max);
    return true;
}

static bool check_choice(const struct rule *r, const char *text, char reason[static RULE_REASON_SIZE])
{
    size_t used;

    for (const char *const *choice = r->choices; *choice; choice++)
        if (strcmp(*choice, text) == 0)
            return true;
    refuse(reason, "must be one of:");
    for (const char *const *choice = r->choices; *choice; choice++) {
        used = strlen(reason);
        snprintf(reason + used, RULE_REASON_SIZE - used, " %s", *choice);
    }
    return false;
}

bool rule_check(const struct rule *r, const char *text, char reason[static RULE_REASON_SIZE])
{
    size_t length = strlen(text);
    int64_t value = 0;
    struct err why = {0};

    if (!length)
        return r->required ? refuse(reason, "is missing") : true;
    for (const char *at = text; *at; at++)
        if ((unsigned char)*at < 32 || *at == 127)
            return refuse(reason, "has a control character (code %d)", (unsigned char)*at);
    if (r->max && r->type != RULE_INT && length > (size_t)r->max)
        return refuse(reason, "is longer than %lld bytes", (long long)r->max);
    switch (r->type) {
    case RULE_TEXT: return true;
    case RULE_NAME:
        return is_name(text, length, (size_t)r->max)
            || refuse(reason, "may have letters, digits, . _ - (at most %lld), and begins with a letter or digit", (long long)r->max);
    case RULE_NAMES: return is_names(text) || refuse(reason, "must be server names, separated by commas");
    case RULE_INT:
        if (!read_int(text, &value))
            return refuse(reason, "must be a whole number from %lld to %lld", (long long)r->min, (long long)r->max);
        return check_int(r, value, reason);
    case RULE_ADDRESS: return is_address(text) || refuse(reason, "is no IPv4 or IPv6 address and no host name");
    case RULE_CIDR: return is_cidr(text) || refuse(reason, "must be %s", r->hint);
    case RULE_CHOICE: return check_choice(r, text, reason);
    case RULE_FORM: return r->fits(text) || refuse(reason, "must be %s", r->hint);
    case RULE_READ: return r->reads(text, &why) == 0 || refuse(reason, "%s", why.message);
    }
    MUST(!"a rule's type");
    return false;
}

int rule_take_text(const struct rule *r, const char *text, json_t **out, char reason[static RULE_REASON_SIZE])
{
    if (!rule_check(r, text, reason))
        return -1;
    *out = !*text ? NULL : r->type == RULE_INT ? json_integer(strtoll(text, NULL, 10)) : json_string(text);
    if (*text && !*out) {
        refuse(reason, "is not UTF-8 text");
        return -1;
    }
    return 0;
}

int rule_take(const struct rule *r, const json_t *value, json_t **out, char reason[static RULE_REASON_SIZE])
{
    if (!value || json_is_null(value))
        return rule_take_text(r, "", out, reason);
    if (json_is_integer(value) && r->type == RULE_INT) {
        if (!check_int(r, json_integer_value(value), reason))
            return -1;
        *out = json_integer(json_integer_value(value));
        return 0;
    }
    if (json_is_integer(value) && r->type == RULE_READ) { /* "bandwidth": 0 */
        char number[32];

        snprintf(number, sizeof number, "%lld", (long long)json_integer_value(value));
        return rule_take_text(r, number, out, reason);
    }
    if (!json_is_string(value) || strlen(json_string_value(value)) != json_string_length(value)) {
        refuse(reason, r->type == RULE_INT ? "must be a whole number" : "must be a text");
        return -1;
    }
    return rule_take_text(r, json_string_value(value), out, reason);
}
