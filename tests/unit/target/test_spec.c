#include "target/spec.h"
#include "tap.h"

static void names(void)
{
    static const char *const good[] = {"a", "0", "web01-test", "0123456789012345678901234567890123456789"};
    static const char *const bad[] = {"", "-a", "A", "a/b", "..", "a b", "a.b", "01234567890123456789012345678901234567890"};

    for (size_t i = 0; i < ARRAY_COUNT(good); i++)
        ok(spec_name_is_good(good[i]), "\"%s\" can name an instance", good[i]);
    for (size_t i = 0; i < ARRAY_COUNT(bad); i++)
        ok(!spec_name_is_good(bad[i]), "\"%s\" can't", bad[i]);
    ok(!spec_name_is_good(NULL), "nothing can't");
}

static void addresses(void)
{
    static const char *const bad[] = {"", "192.0.2.11", "192.0.2.11/", "192.0.2.11/33", "192.0.2.11/0", "192.0.2.11/24x", "192.0.2.11/-1",
                                      "192.0.2.11/+4", "192.0.2.11/ 4", "192.0.2/24", "1192.0.2.11.1.1/24", "fe80::1/64", "192.0.2.11/024"};
    struct spec_cidr cidr = {0};
    struct err e = {0};

    is_int(spec_cidr_parse("192.0.2.11/24", &cidr, &e), 0, "an address with its prefix");
    ok(cidr.address == 0xc000020b && cidr.prefix == 24, "is read right");
    ok(spec_cidr_holds(&cidr, 0xc00002fe) && !spec_cidr_holds(&cidr, 0xc0000301), "and knows its network");
    is_int(spec_cidr_parse("192.0.2.11/32", &cidr, &e), 0, "a network of one");
    ok(spec_cidr_holds(&cidr, 0xc000020b) && !spec_cidr_holds(&cidr, 0xc000020a), "holds one");
    for (size_t i = 0; i < ARRAY_COUNT(bad); i++) {
        e = (struct err){0};
        ok(spec_cidr_parse(bad[i], &cidr, &e) < 0 && e.kind == ERR_INVALID, "\"%s\" is refused", bad[i]);
    }
}

static void exports(void)
{
    static const char *const bad[] = {
        "", "nbd+unix:///x", "nbd+unix://host/x?socket=/s", "nbd+unix:///x?socket=s", "nbd+unix:///x?socket=/s&socket=/t",
        "nbd+unix:///%zz?socket=/s", "nbd+unix:///%00?socket=/s", "nbd+unix:///%4?socket=/s", "http://x/", "nbd://", "nbd://h:0/x",
        "nbd://h:99999/x", "nbd://h:1x/x", "nbd://h/x?y"};
    struct spec_nbd place;
    char longest[200];

    is_int(spec_nbd_parse("nbd+unix:///web01%2Fdisk%200?socket=/run/a%20b.sock", &place, NULL), 0, "a unix export is read");
    is_str(place.export_name, "web01/disk 0", "its name, decoded");
    is_str(place.socket_path, "/run/a b.sock", "its socket");
    is_int(spec_nbd_parse("nbd://host:10810/x", &place, NULL), 0, "a TCP export is read");
    ok(strcmp(place.host, "host") == 0 && place.port == 10810 && strcmp(place.export_name, "x") == 0 && !place.socket_path[0], "all of it");
    is_int(spec_nbd_parse("nbd://host", &place, NULL), 0, "one without a name");
    ok(place.port == 10809 && !place.export_name[0], "has the usual port");
    snprintf(longest, sizeof longest, "nbd+unix:///x?socket=/%0150d", 1);
    ok(spec_nbd_parse(longest, &place, NULL) < 0, "a path that no socket can have is refused");
    for (size_t i = 0; i < ARRAY_COUNT(bad); i++)
        ok(spec_nbd_parse(bad[i], &place, NULL) < 0, "\"%s\" is refused", bad[i]);
}

static struct target_spec example(void)
{
    return (struct target_spec){
        .instance = "db01-test", .server = "db01", .cpu_count = 2, .memory_bytes = INT64_C(768) << 20, .uefi = true, .disk_bus = "scsi",
        .disks = {{"sda", "nbd+unix:///a?socket=/s", 1 << 20, 1, NULL}, {"sdb", "nbd://h/b", 1 << 30, 0, NULL}}, .disk_count = 2,
        .nics = {{"52:54:00:00:00:01", "192.0.2.11/24", "192.0.2.1"}, {NULL, NULL, NULL}}, .nic_count = 2,
        .net = TARGET_NET_CLOSED, .network = "lan"};
}

static void kept_and_read_back(void)
{
    CLEANUP(arena_free) struct arena *a = arena_new();
    struct target_spec spec = example(), again;
    CLEANUP(json_free) json_t *first = spec_to_json(&spec), *second = NULL;
    struct err e = {0};

    is_int(spec_from_json(first, a, &again, &e), 0, "a spec is read back");
    second = spec_to_json(&again);
    ok(json_equal(first, second), "and is the same");
    json_object_set_new(first, "net", json_string("ajar"));
    ok(spec_from_json(first, a, &again, &e) < 0 && e.kind == ERR_CORRUPT, "what can't be understood is corrupt");
    json_decref(second);
    second = NULL;
}

static void faults_are_all_told(void)
{
    CLEANUP(json_free) json_t *lines = json_array();
    struct target_spec spec = example();
    struct err e = {0};

    is_int(spec_faults(&spec, lines), 0, "good settings have no fault");
    spec.cpu_count = 0;
    spec.disks[1].nbd_uri = "x";
    spec.nics[0].mac = "01:00:00:00:00:00";
    spec.network = NULL;
    is_int(spec_faults(&spec, lines), 4, "four faults are four lines");
    ok(spec_check(&spec, &e) < 0 && e.kind == ERR_INVALID && strstr(e.message, "CPU") && strstr(e.message, "01:00:00") &&
       strstr(e.message, "NBD") && strstr(e.message, "no network"), "and one error that names them all");
    spec = example();
    spec.disk_bus = "virtio";
    spec.disk_count = 64;
    for (int i = 0; i < 64; i++)
        spec.disks[i] = example().disks[i > 0];
    ok(spec_faults(&spec, lines) > 0, "64 disks do not fit on virtio");
    spec.disk_bus = "scsi";
    is_int(spec_faults(&spec, lines), 0, "but on SCSI");
    spec.disk_count = 65;
    ok(spec_faults(&spec, lines) > 0, "65 do not fit at all");
}

int main(void)
{
    names();
    addresses();
    exports();
    kept_and_read_back();
    faults_are_all_told();
    return tap_done();
}
