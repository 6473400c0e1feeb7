#include "target/accel.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/json.h"
#include "base/proc.h"

#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <stdio.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

#define KVM_DEADLINE_MS 10000
#define VERSION_TIMEOUT_MS 20000
#define OUTPUT_LIMIT_BYTES (1u << 20)

const char *accel_option(const struct accel *a) { return a->kvm ? "kvm" : "tcg,thread=multi,tb-size=256"; }
const char *accel_cpu(const struct accel *a) { return a->kvm ? "host" : "max"; }

int accel_qemu_version(char *version, size_t size, struct err *e)
{
    CLEANUP(buf_release) struct buf out = {0};
    struct proc_options options = {.argv = (const char *const[]){"qemu-system-x86_64", "--version", NULL},
                                   .timeout_ms = VERSION_TIMEOUT_MS};
    char found[64] = "";

    if (proc_must(&options, &out, e) < 0)
        return err_wrap(e, "install qemu-system-x86");
    if (!out.data || sscanf(out.data, "QEMU emulator version %63[0-9.]", found) != 1)
        return err_set(e, ERR_PROTOCOL, "qemu-system-x86_64 --version says something else than its version");
    snprintf(version, size, "%s", found);
    return 0;
}

/* The newest by name; the caller frees. NULL: none that can be read. */
static char *find_kernel(void)
{
    char *found = NULL;
    glob_t names;

    if (glob("/boot/vmlinuz-*", 0, NULL, &names) == 0)
        for (size_t i = names.gl_pathc; i-- > 0 && !found;)
            if (access(names.gl_pathv[i], R_OK) == 0)
                found = xstrdup(names.gl_pathv[i]);
    globfree(&names);
    return found;
}

int accel_boots_kernel(bool kvm, int timeout_ms, struct err *e)
{
    CLEANUP(free_ptr) char *kernel = find_kernel();
    CLEANUP(buf_release) struct buf out = {.limit_bytes = OUTPUT_LIMIT_BYTES}, err = {.limit_bytes = 4096};
    struct accel a = {.kvm = kvm};
    int status = 0;
    /* It finds no root file system, panics, and panic=-1 with -no-reboot ends QEMU: so its end is the proof's end. */
    struct proc_options options = {
        .argv = (const char *const[]){"qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
                                      "-machine", "q35", "-accel", accel_option(&a), "-cpu", accel_cpu(&a), "-m", "256",
                                      "-serial", "stdio", "-kernel", kernel, "-append", "console=ttyS0 panic=-1", NULL},
        .timeout_ms = timeout_ms};

    if (!kernel)
        return err_set(e, ERR_NOT_FOUND, "there is no kernel in /boot to try it with");
    if (proc_run(&options, &out, &err, &status, e) < 0)
        return -1;
    if (out.data && strstr(out.data, "Linux version") && strstr(out.data, "Unable to mount root fs"))
        return 0;
    return err_set(e, ERR_PROTOCOL, "%s did not come up: %s", kernel, err.size_bytes ? err.data : "it said nothing");
}

/* What the answer depends on. */
static int make_key(char *key, size_t size, struct err *e)
{
    char version[64];
    struct utsname host;

    if (accel_qemu_version(version, sizeof version, e) < 0)
        return -1;
    uname(&host);
    snprintf(key, size, "qemu %s; %s %s %s", version, host.sysname, host.release, host.version);
    return 0;
}

static bool remembered(const char *path, const char *key, struct accel *out)
{
    CLEANUP(json_free) json_t *kept = NULL;

    if (json_read_file(path, &kept, NULL) < 0 || strcmp(json_get_string(kept, "key", ""), key) != 0)
        return false;
    out->kvm = strcmp(json_get_string(kept, "accelerator", ""), "kvm") == 0;
    snprintf(out->reason, sizeof out->reason, "%s (tried %s)", json_get_string(kept, "reason", ""), json_get_string(kept, "at", "before"));
    return true;
}

static int remember(const char *path, const char *key, const struct accel *a, struct err *e)
{
    CLEANUP(json_free) json_t *kept = json_object();
    CLEANUP(free_ptr) char *text = NULL;

    json_object_set_new(kept, "key", json_string(key));
    json_object_set_new(kept, "accelerator", json_string(a->kvm ? "kvm" : "tcg"));
    json_object_set_new(kept, "reason", json_string(a->reason));
    json_set_time(kept, "at", clock_now_us());
    text = json_text(kept);
    return file_write(path, text, strlen(text), 0600, e);
}

static bool kvm_opens(struct accel *out)
{
    CLEANUP(close_fd) int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);

    if (fd < 0)
        snprintf(out->reason, sizeof out->reason, "software emulation: /dev/kvm: %s", strerror(errno));
    return fd >= 0;
}

int accel_decide(const char *folder, const char *wanted, struct accel *out, struct err *e)
{
    CLEANUP(free_ptr) char *path = xasprintf("%s/accelerator.json", folder);
    struct accel decided = {0};
    struct err why = {0};
    char key[512];

    if (strcmp(wanted, "tcg") == 0) {
        *out = (struct accel){false, "software emulation, as set"};
        return 0;
    }
    if (!kvm_opens(&decided)) {
        if (strcmp(wanted, "kvm") == 0)
            return err_set(e, ERR_UNSUPPORTED, "the accelerator is set to kvm, and there is none (%s): set it to auto", decided.reason);
        *out = decided;
        return 0;
    }
    if (strcmp(wanted, "kvm") == 0) {
        *out = (struct accel){true, "KVM, as set"};
        return 0;
    }
    if (make_key(key, sizeof key, e) < 0)
        return -1;
    if (remembered(path, key, out))
        return 0;
    decided.kvm = accel_boots_kernel(true, KVM_DEADLINE_MS, &why) == 0;
    if (decided.kvm)
        snprintf(decided.reason, sizeof decided.reason, "KVM: a kernel booted under it");
    else
        snprintf(decided.reason, sizeof decided.reason, "software emulation: under KVM %.400s", why.message);
    if (remember(path, key, &decided, e) < 0)
        return -1;
    *out = decided;
    return 0;
}
