/* test_bucket S3_SERVER VAULT_READ: a vault whose full segments lie in an S3-compatible store: a server of the test's own, which can be gone, slow, wrong.
 * test_bucket --real URL BUCKET ACCESS SECRET [CA]: the same ways, without the faults, in a real one. */
#include "base/hash.h"
#include "bucketed.h"
#include "vault/bucket_private.h"

#include <fcntl.h>
#include <sys/stat.h>

static const char *reader;

/* Just before a segment travels: its file loses its bytes, as it does where a sector can't be read any more. */
static char *lost_before_sending; /* a segment's file; NULL: none */
int __real_s3_has(struct s3 *s, const char *object, struct err *e);
int __wrap_s3_has(struct s3 *s, const char *object, struct err *e);
int __wrap_s3_has(struct s3 *s, const char *object, struct err *e)
{
    const char *name = strrchr(object, '/');
    int there = __real_s3_has(s, object, e);

    if (there == 0 && lost_before_sending && name && strcmp(name, strrchr(lost_before_sending, '/')) == 0 && truncate(lost_before_sending, 0) == 0)
        free_ptr(&lost_before_sending);
    return there;
}

static bool small(void) { return all_sent() && files(".seg") <= 3; } /* two of 1 MiB, and the one that is being filled */
static bool in_trouble(void) { return stat_now().bucket_error_kind != ERR_NONE; }

/* A chunk of the point that has no file here any more. */
static uint64_t far_chunk(const char *point)
{
    for (uint64_t i = 0; i < CHUNKS; i++) {
        CLEANUP(vault_image_free) struct vault_image *image = NULL;
        CLEANUP(free_ptr) char *path = NULL;
        struct chunk_place place;
        struct vault_hash name;

        MUST(vault_image_open(v, point, "d", &image, NULL) == 0 && vault_image_hash(image, i, &name, NULL) == 0);
        seal_name(v->seal, &name);
        pthread_mutex_lock(&v->append_lock);
        MUST(place_find(v, &name, &place, NULL) == 1);
        pthread_mutex_unlock(&v->append_lock);
        path = segment_path(v->segment_dir, place.segment);
        if (!file_exists(path))
            return i;
    }
    return UINT64_MAX;
}

static void away_and_back(void)
{
    CLEANUP(vault_report_release) struct vault_report report = {0};
    struct err e = {0};

    ok(opens() && live(1000, &one) && live(2000, &two), "two points of 4 MiB");
    ok(comes(small), "full segments are sent, and their files go down to the cache's size");
    first(objects() >= 7 && files(".maps") >= 4, "they lie in the bucket (%d), their maps here (%d)", objects(), files(".maps"));
    first(stat_now().bucket_kept_count == (uint64_t)objects() && stat_now().bucket_kept_bytes > 0, "and the vault's figures say so");
    ok(vault_check(v, &report, &e) == 0 && report.finding_count == 0, "every map and place is there, without the store");
    ok(holds(one.id, 1000) && holds(two.id, 2000), "what went is read back");
    first(vault_scrub(v, NULL, NULL, &report, &e) == 0 && report.finding_count == 0, "and scrubbed (%s)", e.message);
    ok(comes(small), "and the cache stays in its bounds");
}

static void bad_reads(void)
{
    CLEANUP(vault_report_release) struct vault_report report = {0};
    static const char *const passing[] = {"gone", "500", "slow", "cut"};
    uint64_t far = far_chunk(one.id);
    uint8_t bytes[CHUNK], wanted[CHUNK];
    struct err e = {0};

    if (!ok(far != UINT64_MAX, "a chunk lies in the bucket alone"))
        return;
    fill(wanted, 1000 + far);
    for (size_t i = 0; i < ARRAY_COUNT(passing); i++) {
        int64_t begun_us = clock_monotonic_us();

        fault(passing[i]);
        ok(read_chunk(one.id, far, bytes, &e) < 0 && e.kind == ERR_UNREACHABLE, "a store that is %s: a read fails closed (%s: %s)", passing[i],
           err_meaning(e.kind)->name, e.message);
        ok(clock_monotonic_us() - begun_us < SLOW_MS * US_PER_MS, "and waits for no late answer");
    }
    first(vault_scrub(v, NULL, NULL, &report, &e) < 0 && e.kind == ERR_UNREACHABLE, "a scrub that can't read everything says so (%s)", e.message);
    fault("nobucket");
    first(read_chunk(one.id, far, bytes, &e) < 0 && e.kind == ERR_UNREACHABLE, "a bucket that is not there says nothing of its objects (%s)", e.message);
    is_int(stat_now().bad_count, 0, "none of it counts as damage");
    fault("500 3");
    first(read_chunk(one.id, far, bytes, &e) == 0 && memcmp(bytes, wanted, CHUNK) == 0, "a store that is back within the limit is waited for (%s)", e.message);
    far = far_chunk(two.id);
    fault("wrong");
    first(read_chunk(two.id, far, bytes, &e) < 0 && e.kind == ERR_CORRUPT && strstr(e.message, "segments/"), "wrong bytes are refused, and named (%s)", e.message);
    fault("");
    is_int(stat_now().bad_count, 1, "and remembered");
    ok(vault_point_usable(v, two.id, &e) < 0, "as any damage is");
    fill(wanted, 2000 + far);
    ok(vault_store(v, wanted, NULL, NULL, NULL, &e) == 0 && vault_sync(v, &e) == 0 && vault_point_usable(v, two.id, &e) == 0, "until the source sent it again");
}

static void bad_sends(void)
{
    static const char *const faults[] = {"500", "gone", "spoil", "lie", "forget"};
    CLEANUP(free_ptr) char *segments = xasprintf("%s/segments", vault_dir);
    struct err e = {0};
    uint8_t page[VAULT_PAGE_BYTES] = {9};
    struct vault_hash base, made;
    uint64_t far;

    ok(comes(all_sent), "all is sent");
    for (size_t i = 0; i < ARRAY_COUNT(faults); i++) {
        uint64_t kept = stat_now().bucket_kept_count;

        fault(faults[i]);
        ok(live(3000 + 1000 * i, &three), "%s: what is written is written here", faults[i]);
        first(comes(in_trouble) && stat_now().bucket_kept_count == kept && stat_now().bucket_waiting_count > 0, "nothing counts as sent (%s)", stat_now().bucket_error);
        fault("");
        ok(comes(all_sent) && stat_now().bucket_kept_count > kept, "sent again when the store is well");
        ok(holds(three.id, 3000 + 1000 * i), "and whole");
    }
    stop_server();
    ok(live(9000, &three) && stat_now().bucket_waiting_count > 0, "without a network points are made all the same");
    far = far_chunk(two.id);
    if (ok(far != UINT64_MAX, "some are away")) {
        uint8_t bytes[CHUNK];

        fill(bytes, 2000 + far);
        vault_hash_of(bytes, CHUNK, &base);
        is_int(vault_store_delta(v, &base, 1, page, &made, NULL, &e), 0, "a change on what is away is wanted whole, and waits for nobody");
        first(read_chunk(two.id, far, bytes, &e) < 0 && e.kind == ERR_UNREACHABLE && strstr(e.message, "bucket vaults"), "what is away says where it is (%s)", e.message);
    }
    first(comes(in_trouble) && strstr(stat_now().bucket_error, url), "the trouble is told (%s)", stat_now().bucket_error);
    start_server();
    ok(comes(all_sent) && holds(three.id, 9000), "a network that is back takes what waited");
}

static void flip_header(const char *path)
{
    CLEANUP(close_fd) int fd = open(path, O_RDWR | O_CLOEXEC);

    MUST(fd >= 0 && pwrite(fd, "?", 1, 20) == 1 && pwrite(fd, "!", 1, 21) == 1);
}

static bool refuses_to_send(void) { return stat_now().bucket_refused_count > 0; }
static bool sends_again(void) { return all_sent() && stat_now().bucket_refused_count == 0; }

/* One whose header was damaged before it was sent waits until that is found and mended. */
static void header_unsent(void)
{
    CLEANUP(vault_report_release) struct vault_report report = {0};
    struct vault_point four;
    struct segment_row row;
    struct err e = {0};
    int count = 0;

    stop_server();
    ok(live(13000, &four), "a point, without a network");
    for (uint32_t id = 1; id < v->next_segment; id++) {
        CLEANUP(free_ptr) char *path = segment_path(v->segment_dir, id);

        if (segment_row_get(v, id, &row, NULL) != 1 || !(row.flags & SEGMENT_SEALED) || row.flags & SEGMENT_KEPT || count)
            continue;
        flip_header(path);
        count++;
    }
    start_server();
    ok(count && comes(refuses_to_send), "what has a damaged header is not sent");
    ok(vault_check(v, &report, &e) == 0 && report.finding_count == 1 && strstr(report.findings[0].text, "header") && vault_forget_damaged(v, NULL, &e) == 0 && comes(sends_again),
       "until it is written anew");
    ok(holds(four.id, 13000) && vault_point_drop(v, four.id, &e) == 0, "and it is whole");
}

static uint32_t unsent[2];
static char *unsent_path(int i) { return segment_path(v->segment_dir, unsent[i]); }
static bool others_are_sent(void) { return stat_now().bucket_refused_count == 2 && stat_now().bucket_waiting_count == 0; }

/* One file that is gone, and one that can't be read, before they were sent: the others go, and nobody is kept busy. */
static void unreadable_unsent(void)
{
    struct vault_point four;
    struct segment_row row;
    int count = 0;

    stop_server();
    ok(live(19000, &four), "a point, without a network");
    for (uint32_t id = 1; id < v->next_segment && count < 2; id++)
        if (segment_row_get(v, id, &row, NULL) == 1 && row.flags & SEGMENT_SEALED && !(row.flags & SEGMENT_KEPT))
            unsent[count++] = id;
    MUST(count == 2);
    for (int i = 0; i < count; i++) {
        CLEANUP(free_ptr) char *path = unsent_path(i), *aside = xasprintf("%s.aside", path);

        MUST(rename(path, aside) == 0 && (i == 0 || mkdir(path, 0700) == 0));
    }
    start_server();
    ok(comes(others_are_sent), "files that are gone or unreadable hold up no others");
    for (int i = 0; i < count; i++) {
        CLEANUP(free_ptr) char *path = unsent_path(i), *aside = xasprintf("%s.aside", path);

        MUST((i == 0 || rmdir(path) == 0) && rename(aside, path) == 0);
        bucket_mended(v->bucket, unsent[i]);
    }
    ok(comes(sends_again) && holds(four.id, 19000) && vault_point_drop(v, four.id, NULL) == 0, "and are sent when they are back");
}

/* A file that can't be read any more while it is being sent ends nobody. */
static void lost_while_sent(void)
{
    struct vault_point four;
    struct segment_row row;
    uint32_t id = 1;

    stop_server();
    ok(live(23000, &four), "a point, without a network");
    while (id < v->next_segment && !(segment_row_get(v, id, &row, NULL) == 1 && row.flags == SEGMENT_SEALED))
        id++;
    MUST(id < v->next_segment);
    lost_before_sending = segment_path(v->segment_dir, id);
    start_server();
    ok(comes(all_sent) && !lost_before_sending && holds(four.id, 23000), "a file that goes bad while it is sent is sent as it was looked at, and read from there");
    ok(vault_point_drop(v, four.id, NULL) == 0, "the point goes");
}

static struct vault_point later;
static uint64_t kept_then;
static bool lacks(void) { return stat_now().bucket_error_kind == ERR_NOT_FOUND; }
static bool more_are_kept(void) { struct vault_stat s = stat_now(); return s.bucket_waiting_count == 0 && s.bucket_kept_count > kept_then; }

/* A segment of which nothing is here, and whose object is gone: it is told, and holds up nothing else; and it comes when the object is back. */
static void nowhere(void)
{
    CLEANUP(free_ptr) char *command = NULL, *back = NULL;
    struct segment_row row;
    uint32_t id = v->next_segment;

    MUST(comes(small));
    while (--id && !(segment_row_get(v, id, &row, NULL) == 1 && row.flags & SEGMENT_KEPT && !(row.flags & SEGMENT_DOOMED) && !segment_is_here(v->bucket, id)))
        ;
    MUST(id);
    /* Its file, too: somebody may have wanted it since. */
    command = xasprintf("rm %s/segments/%010u.maps && rm -f %s/segments/%010u.seg && mv %s/objects/fleet%%2Fsegments%%2F%010u.seg %s/gone.seg", vault_dir, id, vault_dir, id, dir, id, dir);
    back = xasprintf("mv %s/gone.seg %s/objects/fleet%%2Fsegments%%2F%010u.seg", dir, dir, id);
    vault_close(&v);
    MUST(system(command) == 0 && opens());
    first(comes(lacks) && strstr(stat_now().bucket_error, "can't be brought"), "a segment that is nowhere is told (%s)", stat_now().bucket_error);
    kept_then = stat_now().bucket_kept_count;
    ok(live(21000, &later) && comes(more_are_kept), "and nothing else waits for it");
    first(lacks(), "it is told still (%s)", stat_now().bucket_error);
    vault_close(&v);
    MUST(system(back) == 0);
    ok(opens() && comes(all_sent), "its object is back: all is well");
    ok(holds(two.id, 2000) && holds(later.id, 21000) && vault_point_drop(v, later.id, NULL) == 0, "and whole");
}

static bool as_many(void) { return all_sent() && objects() == (int)stat_now().bucket_kept_count; }

static uint64_t doomed_then;
static bool is_removed(void) { return objects() == (int)stat_now().bucket_kept_count; }
static bool is_carried(void) { CLEANUP(free_ptr) char *path = xasprintf("%s/carried", dir); return file_exists(path); }
static bool is_given_up(void) { return stat_now().bucket_waiting_count > 0 && in_trouble(); }

/* What a store carries out after its client gave it up, and after it was removed, is removed once more: it would bring back what was dropped. */
static void carried_out_late(void)
{
    CLEANUP(free_ptr) char *carry = xasprintf("%s/carry", dir);
    struct vault_point four;

    ok(vault_gc(v, NULL, NULL) == 0 && comes(as_many), "the bucket holds what the vault says, and needs");
    vault_close(&v);
    late_ms = 600 * 1000; /* so that it does not come to the second time while this lasts, however slow the machine is */
    MUST(opens());
    fault("later");
    ok(live(27000, &four) && comes(is_given_up), "a store that answers nothing, and has all");
    fault("");
    ok(comes(all_sent) && holds(four.id, 27000), "it is sent again");
    MUST(vault_point_drop(v, four.id, NULL) == 0 && live(28000, &four) && vault_gc(v, NULL, NULL) == 0);
    ok(comes(is_removed), "and given back, and removed there");
    doomed_then = stat_now().bucket_doomed_count;
    MUST(file_write(carry, "", 0, 0600, NULL) == 0);
    first(doomed_then > 0 && comes(is_carried), "the store does what it was asked for long before (%llu are to be removed once more)", (unsigned long long)doomed_then);
    vault_close(&v);
    late_ms = LATE_MS;
    ok(opens() && comes(as_many), "which is removed, too");
    MUST(vault_point_drop(v, four.id, NULL) == 0);
}

static void space(void)
{
    struct err e = {0};
    uint64_t freed = 0;
    int before;

    ok(comes(as_many), "the bucket holds what the vault says");
    before = objects();
    stop_server();
    first(vault_point_drop(v, one.id, &e) == 0 && vault_gc(v, &freed, &e) == 0 && freed > 0, "space is given back without the network (%s)", e.message);
    is_int(objects(), before, "the objects stay meanwhile");
    ok(stat_now().bucket_doomed_count > 0, "and are to be removed");
    vault_close(&v);
    ok(opens() && stat_now().bucket_doomed_count > 0, "which is not forgotten");
    start_server();
    first(comes(as_many) && objects() < before, "they are removed when it is back (%d of %d are left)", objects(), before);
    first(vault_compact(v, 80, false, &freed, &e) == 0 && comes(as_many), "sparse segments are brought, copied out and removed (%s)", e.message);
    ok(holds(two.id, 2000) && holds(three.id, 9000), "and what lives is whole");
}

/* One byte in the middle of a file. */
static void damage(const char *path)
{
    CLEANUP(close_fd) int fd = open(path, O_RDWR | O_CLOEXEC);
    struct stat st;
    uint8_t byte;

    MUST(fd >= 0 && fstat(fd, &st) == 0 && fd_pread_all(fd, &byte, 1, st.st_size / 2, NULL) == 0);
    byte ^= 1;
    MUST(fd_pwrite_all(fd, &byte, 1, st.st_size / 2, NULL) == 0);
}

static void damaged_here(void)
{
    CLEANUP(free_ptr) char *segments = xasprintf("%s/segments", vault_dir);
    DIR *d = opendir(segments);
    struct dirent *entry;
    int count = 0;

    while (d && (entry = readdir(d))) {
        CLEANUP(free_ptr) char *path = xasprintf("%s/%s", segments, entry->d_name);
        struct segment_row row;
        uint32_t id = segment_id_of_name(entry->d_name);

        if (!id || segment_row_get(v, id, &row, NULL) != 1 || !(row.flags & SEGMENT_KEPT))
            continue;
        damage(path);
        count++;
    }
    if (d)
        closedir(d);
    ok(count > 0 && holds(two.id, 2000) && holds(three.id, 9000), "what is damaged here (%d files) is read from the bucket", count);
    is_int(stat_now().bad_count, 0, "and is no damage");
}

/* Of every segment's file that is here; how many. */
static int damage_headers(void)
{
    CLEANUP(free_ptr) char *segments = xasprintf("%s/segments", vault_dir);
    DIR *d = opendir(segments);
    struct dirent *entry;
    int count = 0;

    while (d && (entry = readdir(d))) {
        CLEANUP(free_ptr) char *path = xasprintf("%s/%s", segments, entry->d_name);

        if (!segment_id_of_name(entry->d_name))
            continue;
        flip_header(path);
        count++;
    }
    if (d)
        closedir(d);
    return count;
}

static uint32_t hurt;
static bool header_is_whole(void)
{
    CLEANUP(free_ptr) char *path = segment_path(v->segment_dir, hurt);
    CLEANUP(close_fd) int fd = open(path, O_RDONLY | O_CLOEXEC);
    struct segment_header header;

    return fd >= 0 && segment_header_read(fd, &header, NULL) == 0;
}

/* A header that is damaged here: the file comes anew, as it was. */
static void header_here(void)
{
    CLEANUP(vault_report_release) struct vault_report report = {0};
    struct segment_row row;
    struct err e = {0};

    for (hurt = v->next_segment; hurt && !(segment_is_here(v->bucket, hurt) && segment_row_get(v, hurt, &row, NULL) == 1 && row.flags & SEGMENT_KEPT); hurt--)
        ;
    if (hurt) {
        CLEANUP(free_ptr) char *path = segment_path(v->segment_dir, hurt);

        flip_header(path);
    }
    ok(hurt && vault_check(v, &report, &e) == 0 && report.finding_count && strstr(report.findings[0].text, "header"), "a header that is damaged here is found");
    ok(vault_forget_damaged(v, NULL, &e) >= 0 && comes(header_is_whole), "and its segment comes anew");
}

/* With vault.json an encrypted vault has its keys: one that is damaged here, while the vault is open, is not sent over the one there. */
static void marker_here(void)
{
    CLEANUP(free_ptr) char *here = xasprintf("%s/vault.json", vault_dir), *there = xasprintf("%s/objects/fleet%%2Fvault.json", dir);
    CLEANUP(buf_release) struct buf whole = {0}, sent = {0};
    struct vault_point four;
    struct err e = {0};

    MUST(file_read(here, 1 << 20, &whole, NULL) == 0);
    damage(here);
    ok(live(17000, &four) && comes(all_sent) && holds(four.id, 17000), "a vault.json that is damaged here holds nothing up");
    ok(file_read(there, 1 << 20, &sent, &e) == 0 && sent.size_bytes == whole.size_bytes && memcmp(sent.data, whole.data, whole.size_bytes) == 0, "nor is it sent");
    MUST(file_write(here, whole.data, whole.size_bytes, 0600, NULL) == 0 && vault_point_drop(v, four.id, NULL) == 0);
}

static bool way_is_told(void) { struct vault_stat s = stat_now(); return s.bucket_error_kind == ERR_WRONG_STATE && strstr(s.bucket_error, "put the vault.json"); }

/* One that is damaged or gone there: the vault opens and goes on, nothing there is believed, and what to do is told. */
static void marker_there(void)
{
    CLEANUP(free_ptr) char *there = xasprintf("%s/objects/fleet%%2Fvault.json", dir), *aside = xasprintf("%s/marker", dir), *damage_it = xasprintf("cp %s %s && truncate -s 40 %s", there, aside, there);
    CLEANUP(free_ptr) char *back = xasprintf("cp %s %s", aside, there), *remove = xasprintf("rm %s", there), *other_key = xasprintf("sed -i 's/\"made_us\":1/\"made_us\":2/' %s", there);
    const char *const ways[] = {damage_it, remove};
    uint8_t bytes[CHUNK];
    struct err e = {0};

    for (size_t i = 0; i < ARRAY_COUNT(ways); i++) {
        struct vault_point four;
        uint64_t far;

        vault_close(&v);
        MUST(system(ways[i]) == 0);
        ok(opens() && live(25000 + 1000 * i, &four) && comes(way_is_told), "a vault.json that is %s there: the vault opens, and says what to do", i ? "gone" : "damaged");
        far = far_chunk(two.id);
        first(far != UINT64_MAX && read_chunk(two.id, far, bytes, &e) < 0 && e.kind == ERR_UNREACHABLE, "what lies there is not read (%s)", e.message);
        ok(stat_now().bad_count == 0 && stat_now().bucket_waiting_count > 0, "nor is it damaged, and nothing is sent");
        MUST(system(back) == 0);
        ok(comes(all_sent) && holds(two.id, 2000) && holds(four.id, 25000 + 1000 * i) && vault_point_drop(v, four.id, NULL) == 0, "with it all is well");
    }
    vault_close(&v);
    MUST(system(other_key) == 0);
    first(open_as(prefix, secret, true, &v, &e) < 0 && e.kind == ERR_CONFLICT && strstr(e.message, "knows a data key"), "one with another data key is not written over (%s)", e.message);
    MUST(system(back) == 0 && opens());
}

/* tools/vault_read.py on what a person downloaded from the bucket. */
static void read_elsewhere(void)
{
    CLEANUP(free_ptr) char *key_file = xasprintf("%s/key", dir);
    CLEANUP(free_ptr) char *command = xasprintf("cd %s && mkdir -p copy/segments && cp objects/fleet%%2Fvault.json copy/vault.json && for f in objects/*.seg; do cp $f copy/segments/${f##*2F}; done && "
                                                "python3 '%s' --key-file key copy points | grep -q %s", dir, reader, two.id);
    char hex[2 * VAULT_KEY_SIZE + 1];

    hash_hex(key.bytes, VAULT_KEY_SIZE, hex);
    MUST(file_write(key_file, hex, strlen(hex), 0600, NULL) == 0);
    ok(system(command) == 0, "an independent reader reads a copy of it");
}

/* Every segment that is there has a file here, too, with a flipped bit or without its end. */
static void damage_all_here(void)
{
    CLEANUP(free_ptr) char *folder = xasprintf("%s/objects", dir), *copy = xasprintf("for f in %s/objects/fleet*.seg; do cp $f %s/segments/${f##*2F}; done", dir, vault_dir);
    DIR *d = opendir(folder);
    struct dirent *entry;

    MUST(d && system(copy) == 0);
    while ((entry = readdir(d))) {
        const char *name = strrchr(entry->d_name, 'F');
        uint32_t id = name ? segment_id_of_name(name + 1) : 0;
        CLEANUP(free_ptr) char *path = id ? xasprintf("%s/segments/%s", vault_dir, name + 1) : NULL;

        if (id % 2)
            damage(path);
        else if (id)
            MUST(truncate(path, 300000) == 0);
    }
    closedir(d);
}

static void rebuilt_over_damage(void)
{
    CLEANUP(vault_report_release) struct vault_report report = {0};
    CLEANUP(free_ptr) char *index = xasprintf("%s/index", vault_dir), *command = xasprintf("rm -rf %s", index);
    struct err e = {0};

    damage_all_here();
    MUST(system(command) == 0);
    ok(opens(), "an index is made anew where every file here is damaged");
    ok(holds(two.id, 2000) && holds(three.id, 9000) && comes(small), "of what the bucket has whole nothing is lost");
    first(vault_scrub(v, NULL, NULL, &report, &e) == 0 && report.finding_count == 0 && comes(small), "scrub finds nothing (%s)", report.finding_count ? report.findings[0].text : e.message);
    vault_close(&v);
}

static void rebuilt(void)
{
    CLEANUP(free_ptr) char *moved = xasprintf("%s/moved", dir);
    struct vault *other = NULL;
    struct err e = {0};
    struct vault_point p;

    ok(current_seal(v, &e) == 0 && vault_sync(v, &e) == 0 && comes(all_sent), "all is in the bucket");
    read_elsewhere();
    vault_close(&v);
    first(open_as(NULL, "", false, &v, &e) == 0 && stat_now().has_bucket && !stat_now().bucket_open, "the vault opens without its bucket (%s)", e.message);
    ok(!holds(two.id, 2000), "as far as it goes");
    vault_close(&v);
    {
        CLEANUP(free_ptr) char *index = xasprintf("%s/index", vault_dir), *aside = xasprintf("%s/index.aside", vault_dir);

        MUST(rename(index, aside) == 0);
    }
    err_clear(&e);
    first(open_as(NULL, "", false, &v, &e) < 0 && e.kind == ERR_INVALID, "an index is not made anew without it (%s)", e.message);
    stop_server();
    err_clear(&e);
    first(open_as(prefix, secret, true, &v, &e) < 0 && e.kind == ERR_UNREACHABLE, "nor without the network (%s)", e.message);
    start_server();
    err_clear(&e);
    first(open_as("elsewhere", secret, true, &v, &e) < 0 && e.kind == ERR_WRONG_STATE && strstr(e.message, "as its maps here say"), "nor from a prefix that lacks what lies there for certain (%s)", e.message);
    ok(damage_headers() > 0, "what is here has damaged headers");
    ok(opens() && vault_point_get(v, two.id, &p, &e) == 1 && vault_point_get(v, one.id, &p, &e) == 0, "it is made anew from here and there");
    is_int(vault_anew(v)->damage.finding_count, 0, "where they are whole");
    ok(holds(two.id, 2000) && holds(three.id, 9000) && comes(small), "with all that is in it");
    ok(current_seal(v, &e) == 0 && vault_sync(v, &e) == 0 && comes(small), "all of which is there");
    vault_close(&v);
    rebuilt_over_damage();

    MUST(rename(vault_dir, moved) == 0);
    stop_server();
    err_clear(&e);
    first(open_as(prefix, secret, true, &v, &e) < 0 && e.kind == ERR_UNREACHABLE, "no new vault begins while it is not known whether the bucket holds it (%s)", e.message);
    start_server();
    fault("once");
    ok(opens() && vault_anew(v)->damage.finding_count == 0, "what comes wrong is asked for once more");
    fault("");
    ok(holds(two.id, 2000) && holds(three.id, 9000), "a folder that was lost as a whole comes back from the bucket and the key");
    ok(live(11000, &three) && comes(small) && holds(three.id, 11000), "and goes on");
    vault_close(&v);

    snprintf(vault_dir, sizeof vault_dir, "%s/other", dir);
    first(open_as("another", "wrong", true, &other, &e) < 0 && e.kind == ERR_DENIED && strstr(e.message, "SignatureDoesNotMatch"), "who has not the secret is refused (%s)", e.message);
    err_clear(&e);
    stop_server();
}

/* Names in a bucket may be anything: what a takeover holds of them does not grow with the number that one says. */
static void odd_names(void)
{
    static const char *const names[] = {"4294967295", "3999999999"};
    uint8_t noise[CHUNK];

    start_server();
    fill(noise, 1);
    for (size_t i = 0; i < ARRAY_COUNT(names); i++) {
        CLEANUP(free_ptr) char *path = xasprintf("%s/objects/fleet%%2Fsegments%%2F%s.seg", dir, names[i]);

        MUST(file_write(path, noise, CHUNK, 0600, NULL) == 0);
    }
    snprintf(vault_dir, sizeof vault_dir, "%s/odd", dir);
    ok(opens() && holds(two.id, 2000), "a vault is taken over from among objects with large numbers");
    is_int(vault_anew(v)->damage.finding_count, 1, "of which one is a segment's, and told");
    ok(v->next_segment == 4000000000, "whose number is not used again");
    vault_close(&v);
    stop_server();
}

static void anothers(void)
{
    struct err e = {0};

    start_server();
    snprintf(vault_dir, sizeof vault_dir, "%s/third", dir);
    ok(open_as(NULL, "", false, &v, &e) == 0, "another vault");
    vault_close(&v);
    first(open_as(prefix, secret, true, &v, &e) < 0 && e.kind == ERR_CONFLICT && strstr(e.message, "another vault"), "keeps out of a prefix that is not its own (%s)", e.message);
    ok(open_as(NULL, "", false, &v, &e) == 0 && !stat_now().has_bucket, "and does not say from then on that it lies there");
    vault_close(&v);
    stop_server();
}

static int64_t an_hour_ago(void *user)
{
    (void)user;
    return clock_now_us() - INT64_C(3600) * US_PER_S;
}

static void denied(void)
{
    static const struct clock late = {an_hour_ago, NULL};
    struct err e = {0};

    first(open_as(prefix, "wrong", true, &v, &e) < 0 && e.kind == ERR_DENIED, "who has not the secret is refused (%s)", e.message);
    err_clear(&e);
    wall = &late;
    first(open_as(prefix, secret, true, &v, &e) < 0 && e.kind == ERR_DENIED, "whose clock is wrong, too (%s)", e.message);
    wall = NULL;
}

/* Many at once, under whatever else there is to do. */
static void at_once(void)
{
    CLEANUP(free_ptr) char *path = xasprintf("%s/at_once", dir);
    CLEANUP(buf_release) struct buf said = {0};
    struct vault_point four;

    buf_init(&said, 64);
    fault("late");
    ok(live(15000, &four) && comes(all_sent) && holds(four.id, 15000), "a slow store: all is sent");
    fault("");
    first(file_read(path, 64, &said, NULL) == 0 && atoi(said.data) >= 2, "some segments at once (%s)", said.data);
    ok(atoi(said.data) <= 4, "and never more than it was said");
    ok(vault_point_drop(v, four.id, NULL) == 0, "the point goes");
}

/* Twice the same: what lies in a real store, and what comes back when index and folder are gone. */
static void real(void)
{
    CLEANUP(vault_report_release) struct vault_report report = {0};
    CLEANUP(free_ptr) char *index = xasprintf("%s/index", vault_dir), *aside = xasprintf("%s/index.aside", vault_dir), *moved = xasprintf("%s/moved", dir);
    struct err e = {0};
    uint64_t freed = 0, kept;

    ok(opens() && live(1000, &one) && live(2000, &two) && comes(small), "two points, sent and dropped");
    kept = stat_now().bucket_kept_count;
    ok(kept >= 7 && files(".maps") >= 4, "%llu segments are there", (unsigned long long)kept);
    ok(holds(one.id, 1000) && holds(two.id, 2000), "what went is read back");
    first(vault_scrub(v, NULL, NULL, &report, &e) == 0 && report.finding_count == 0 && comes(small), "and scrubbed (%s)", e.message);
    first(vault_point_drop(v, one.id, &e) == 0 && vault_gc(v, &freed, &e) == 0 && freed > 0 && comes(all_sent) && stat_now().bucket_kept_count < kept, "what nothing uses is removed there (%s)", e.message);
    ok(current_seal(v, &e) == 0 && vault_sync(v, &e) == 0 && comes(all_sent), "the rest is sent");
    vault_close(&v);
    MUST(rename(index, aside) == 0);
    ok(opens() && holds(two.id, 2000) && comes(small), "an index is made anew from what is listed there");
    vault_close(&v);
    MUST(rename(vault_dir, moved) == 0);
    ok(opens() && holds(two.id, 2000) && live(3000, &three) && comes(small) && holds(three.id, 3000), "a folder that was lost comes back, and goes on");
    ok(vault_point_drop(v, two.id, &e) == 0 && vault_point_drop(v, three.id, &e) == 0 && vault_server_drop(v, "web01", &e) == 0 && vault_compact(v, 100, false, &freed, &e) == 0 &&
           comes(all_sent), "all is removed");
    vault_close(&v);
}

int main(int argc, char **argv)
{
    MUST(argc == 3 || ((argc == 6 || argc == 7) && strcmp(argv[1], "--real") == 0));
    server_path = argv[1];
    reader = argv[2];
    begin();
    if (argc > 3) {
        snprintf(url, sizeof url, "%s", argv[2]);
        snprintf(prefix, sizeof prefix, "run+%s", strrchr(dir, '.') + 1); /* a plus: keys are to be encoded */
        bucket_name = argv[3], access_key = argv[4], secret = argv[5], ca_file = argc == 7 ? argv[6] : NULL;
        denied();
        real();
        return end();
    }
    start_server();
    away_and_back();
    bad_reads();
    bad_sends();
    header_unsent();
    unreadable_unsent();
    nowhere();
    lost_while_sent();
    carried_out_late();
    space();
    damaged_here();
    header_here();
    marker_here();
    marker_there();
    at_once();
    rebuilt();
    odd_names();
    anothers();
    return end();
}
