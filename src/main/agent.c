/* slipway-agent: replication's end on the source machine. Argument parsing and wiring, nothing else. */
#include "agent/agent.h"
#include "agent/disks.h"
#include "agent/rescue.h"
#include "agent/restore.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/options.h"

#include <fcntl.h>
#include <openssl/ssl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#define UNIT_PATH "/etc/systemd/system/slipway-agent.service"
#define RESCUE_IMAGE AGENT_RUNTIME_DIR "/rescue.img" /* in memory: the agent's key is in it */
#define STATUS_FRESH_S 5
#define INPUT_LIMIT (1u << 20)

struct options {
    const char *folder, *config, *server, *point, *onto, *image, *kernel, *network, *modules, *release;
    bool dry_run;
};

static const struct option_row option_rows[] = {
    {"folder", OPTION_TEXT, offsetof(struct options, folder), "DIR", "where its key, certificate and configuration are", false},
    {"config", OPTION_TEXT, offsetof(struct options, config), "FILE", "its configuration", false},
    {"server", OPTION_TEXT, offsetof(struct options, server), "NAME", "the server that it is to be", false},
    {"point", OPTION_TEXT, offsetof(struct options, point), "POINT", "a recovery point's id, or newest", false},
    {"onto", OPTION_TEXT, offsetof(struct options, onto), "DISKS", "sda,sdb: what takes the point's disks, in their order", false},
    {"image", OPTION_TEXT, offsetof(struct options, image), "FILE", "the rescue's image", false},
    {"kernel", OPTION_TEXT, offsetof(struct options, kernel), "FILE", "the kernel to start", false},
    {"network", OPTION_TEXT, offsetof(struct options, network), "MAC,ADDRESS/PREFIX[,GATEWAY]", "of another machine", false},
    {"modules", OPTION_TEXT, offsetof(struct options, modules), "NAMES", "drivers of another machine", false},
    {"release", OPTION_TEXT, offsetof(struct options, release), "RELEASE", "of another machine's kernel", false},
    {"dry-run", OPTION_FLAG, offsetof(struct options, dry_run), NULL, "look at what differs, write nothing", false},
};
static const struct option_table option_table = {"slipway-agent", "COMMAND [OPTIONS]", NULL, option_rows, ARRAY_COUNT(option_rows)};

struct command {
    const char *name, *arguments, *summary;
    int (*run)(const struct options *o, struct err *e); /* 0, or -1 */
};

static atomic_bool stop;

static void on_signal(int number)
{
    (void)number;
    atomic_store(&stop, true);
}

static char *config_path(const struct options *o)
{
    return o->config ? xstrdup(o->config) : xasprintf("%s/config.json", o->folder);
}

/* One agent at a time: a lock that ends with the process. */
static int lock_once(const char *runtime_dir, int *fd, struct err *e)
{
    CLEANUP(free_ptr) char *path = xasprintf("%s/lock", runtime_dir);

    if (file_make_dirs(runtime_dir, 0755, e) < 0)
        return -1;
    *fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (*fd < 0 || flock(*fd, LOCK_EX | LOCK_NB) < 0)
        return err_set(e, ERR_CONFLICT, "an agent runs already (%s is locked)", path);
    return 0;
}

static int run_agent(const struct options *o, struct err *e)
{
    struct sigaction action = {.sa_handler = on_signal};
    CLEANUP(free_ptr) char *path = config_path(o);
    CLEANUP(close_fd) int lock = -1;
    struct agent_config config;

    signal(SIGPIPE, SIG_IGN);
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);
    if (agent_config_read(path, &config, e) < 0 || lock_once(config.runtime_dir, &lock, e) < 0)
        return -1;
    return agent_run(&config, &stop, e);
}

static void print_restored(const struct restore_outcome *r)
{
    char at[CLOCK_TEXT_SIZE];
    CLEANUP(json_free) json_t *j = json_pack("{s:s, s:s, s:i, s:I, s:I, s:I, s:I, s:i}", "point", r->point, "at", clock_format(r->at_us, at), "disks", r->disk_count,
                                             "bytes_total", (json_int_t)r->total_bytes, "bytes_different", (json_int_t)r->different_bytes, "bytes_written",
                                             (json_int_t)r->written_bytes, "bytes_received", (json_int_t)r->received_bytes, "passes", r->passes);
    CLEANUP(free_ptr) char *text = json_text(j);

    puts(text);
}

static int restore(const struct options *o, struct err *e)
{
    struct restore_order order = {.point = o->point, .onto = o->onto, .dry_run = o->dry_run};
    struct sigaction action = {.sa_handler = on_signal};
    CLEANUP(free_ptr) char *path = config_path(o);
    CLEANUP(close_fd) int lock = -1;
    struct restore_outcome outcome;
    struct agent_config config;

    signal(SIGPIPE, SIG_IGN);
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);
    if (!o->point)
        return err_set(e, ERR_INVALID, "say which recovery point: --point ID (slipway point list names them), or --point newest");
    if (agent_config_read(path, &config, e) < 0 || lock_once(config.runtime_dir, &lock, e) < 0 ||
        restore_run(&config, &order, &stop, &outcome, e) < 0)
        return -1;
    print_restored(&outcome);
    return 0;
}

static struct rescue_order rescue_order(const struct options *o)
{
    return (struct rescue_order){.point = o->point, .onto = o->onto, .image = o->image ? o->image : RESCUE_IMAGE, .kernel = o->kernel, .network = o->network,
                                 .modules = o->modules, .release = o->release};
}

static int make_rescue(const struct options *o, struct err *e)
{
    struct rescue_order order = rescue_order(o);
    CLEANUP(free_ptr) char *path = config_path(o), *text = NULL;
    CLEANUP(json_free) json_t *about = NULL;
    struct agent_config config;

    signal(SIGPIPE, SIG_IGN);
    if (!o->point)
        return err_set(e, ERR_INVALID, "say which recovery point: --point ID, or --point newest");
    if (agent_config_read(path, &config, e) < 0 || rescue_make(&config, &order, &about, e) < 0)
        return -1;
    text = json_text(about);
    puts(text);
    return 0;
}

/* The settings, and the place of the one agent that runs by them: *lock is the caller's to close. advice: what is said where one has it. */
static int take_place(const struct options *o, const char *advice, struct agent_config *config, int *lock, struct err *e)
{
    CLEANUP(free_ptr) char *path = config_path(o);

    if (agent_config_read(path, config, e) < 0)
        return -1;
    return lock_once(config->runtime_dir, lock, e) < 0 ? err_wrap(e, "%s", advice) : 0;
}

/* An agent that runs here speaks for these disks: they are the truth, and nothing may go over them. */
static int start_rescue(const struct options *o, struct err *e)
{
    struct rescue_order order = rescue_order(o);
    CLEANUP(close_fd) int lock = -1;
    struct agent_config config;

    if (take_place(o, "these disks are being replicated: stop it first (systemctl disable --now slipway-agent)", &config, &lock, e) < 0)
        return -1;
    if (rescue_start(&order, e) < 0)
        return -1;
    puts("the machine leaves its system in two seconds");
    return 0;
}

static int print_csr(const struct options *o, struct err *e)
{
    CLEANUP(buf_release) struct buf csr = {0};
    CLEANUP(free_ptr) char *path = config_path(o);
    struct agent_config config = {0};
    const char *server = o->server;

    if (!server) {
        if (agent_config_read(path, &config, e) < 0)
            return err_wrap(e, "give --server NAME, or a config file");
        server = config.server;
    }
    if (agent_csr(o->folder, server, &csr, e) < 0)
        return -1;
    fputs(csr.data, stdout);
    return 0;
}

static int install_certificate(const struct options *o, struct err *e)
{
    CLEANUP(buf_release) struct buf pem = {0};

    if (file_read("/dev/stdin", INPUT_LIMIT, &pem, e) < 0)
        return -1;
    return agent_install_certificate(o->folder, pem.data, e);
}

static int print_status(const struct options *o, struct err *e)
{
    CLEANUP(free_ptr) char *path = config_path(o), *status = NULL;
    CLEANUP(buf_release) struct buf text = {0};
    struct agent_config config = {0};
    struct stat st;

    if (agent_config_read(path, &config, e) < 0)
        return -1;
    status = xasprintf("%s/status.json", config.runtime_dir);
    if (stat(status, &st) < 0 || clock_now_us() / US_PER_S - st.st_mtime > STATUS_FRESH_S)
        return err_set(e, ERR_WRONG_STATE, "no agent is running here (start it with: systemctl start slipway-agent)");
    if (file_read(status, INPUT_LIMIT, &text, e) < 0)
        return -1;
    fputs(text.data, stdout);
    return 0;
}

static int print_facts(const struct options *o, struct err *e)
{
    struct agent_config config = {.disks_auto = true};
    struct disk disks[LIMIT_DISKS_PER_SERVER];
    struct mount *mounts = xcalloc(MOUNTS_MAX, sizeof *mounts);
    CLEANUP(free_ptr) struct mount *held = mounts;
    CLEANUP(json_free) json_t *facts = json_object();
    CLEANUP(free_ptr) char *text = NULL;
    json_t *list = json_array(), *mounted = json_array();
    int count, mount_count;

    (void)o;
    json_object_set_new(facts, "disks", list);
    json_object_set_new(facts, "mounts", mounted);
    if (disks_find(&config, disks, LIMIT_DISKS_PER_SERVER, &count, e) < 0 || disks_mounts(disks, count, mounts, &mount_count, e) < 0)
        return -1;
    for (int i = 0; i < count; i++)
        json_array_append_new(list, json_pack("{s:s,s:s,s:I}", "id", disks[i].id, "name", disks[i].name, "size_bytes",
                                              (json_int_t)disks[i].size_bytes));
    for (int i = 0; i < mount_count; i++)
        json_array_append_new(mounted, json_pack("{s:s,s:s,s:s}", "source", mounts[i].source, "target", mounts[i].path, "fstype",
                                                 mounts[i].type));
    text = json_text(facts);
    puts(text);
    return 0;
}

static int print_unit(const struct options *o, struct err *e)
{
    char program[256];
    ssize_t size = readlink("/proc/self/exe", program, sizeof program - 1);

    if (size < 0)
        return err_set(e, ERR_INTERNAL, "can't tell where this program is");
    program[size] = '\0';
    printf("[Unit]\nDescription=Slipway replication agent\nAfter=network.target\n\n"
           "[Service]\nExecStart=%s run --config %s/config.json\nRestart=on-failure\nRestartSec=2\n"
           "# The freezer's process must outlive the agent by a moment, to thaw.\nKillMode=mixed\nTimeoutStopSec=150\n"
           "# Where all of it was killed nobody has.\nExecStopPost=%s thaw --config %s/config.json\n"
           "OOMScoreAdjust=-900\nLimitMEMLOCK=infinity\n\n[Install]\nWantedBy=multi-user.target\n",
           program, o->folder, program, o->folder);
    return 0;
}

static int thaw(const struct options *o, struct err *e)
{
    CLEANUP(free_ptr) char *path = config_path(o);
    CLEANUP(close_fd) int lock = -1;
    struct agent_config config;

    if (agent_config_read(path, &config, e) < 0 || lock_once(config.runtime_dir, &lock, e) < 0)
        return -1;
    agent_let_go(&config);
    return 0;
}

/* The tracker that a stopped agent left marking, for the next one. */
static int forget(const struct options *o, struct err *e)
{
    CLEANUP(close_fd) int lock = -1;
    struct agent_config config;

    if (take_place(o, "stop it first (systemctl stop slipway-agent)", &config, &lock, e) < 0)
        return -1;
    return agent_forget_tracker(config.tracker_dir, e);
}

/* Removes what enrolment and running left, and this program. The service must be stopped before. */
static int uninstall(const struct options *o, struct err *e)
{
    static const char *const files[] = {"config.json", "key.pem", "cert.pem", "ca.pem", "detached"};
    static const char *const runtime[] = {"status.json", "frozen", "quiet", "lock", "rescue.img"};
    char program[256];
    ssize_t size = readlink("/proc/self/exe", program, sizeof program - 1);
    CLEANUP(close_fd) int lock = -1;

    if (lock_once(AGENT_RUNTIME_DIR, &lock, e) < 0)
        return err_wrap(e, "stop it first (systemctl disable --now slipway-agent)");
    agent_thaw_left(AGENT_RUNTIME_DIR);
    if (agent_forget_tracker(AGENT_TRACKER_DIR, e) < 0)
        return -1;
    for (size_t i = 0; i < ARRAY_COUNT(files); i++) {
        CLEANUP(free_ptr) char *path = xasprintf("%s/%s", o->folder, files[i]);
        unlink(path);
    }
    for (size_t i = 0; i < ARRAY_COUNT(runtime); i++) {
        CLEANUP(free_ptr) char *path = xasprintf("%s/%s", AGENT_RUNTIME_DIR, runtime[i]);
        unlink(path);
    }
    rmdir(AGENT_RUNTIME_DIR);
    if (rmdir(o->folder) < 0 && file_exists(o->folder))
        return err_set(e, ERR_CONFLICT, "%s holds files that are not the agent's; they were left", o->folder);
    unlink(UNIT_PATH);
    if (size > 0) {
        program[size] = '\0';
        unlink(program);
    }
    return 0;
}

static int print_version(const struct options *o, struct err *e)
{
    (void)o, (void)e;
    puts("slipway-agent " AGENT_VERSION);
    return 0;
}

static int print_help(const struct options *o, struct err *e);

static const struct command commands[] = {
    {"run", "[--config FILE]", "replicate until stopped", run_agent},
    {"csr", "[--folder DIR] [--server NAME]", "make the key where there is none, print a certificate request", print_csr},
    {"install-cert", "[--folder DIR]", "read the certificate, then the CA's, from stdin", install_certificate},
    {"status", "[--config FILE]", "print what the running agent does (JSON)", print_status},
    {"facts", "", "print this machine's disks and their mounted filesystems (JSON)", print_facts},
    {"restore", "--point ID [--onto DISKS] [--dry-run]", "write a recovery point back onto disks that nothing uses: what differs", restore},
    {"rescue-image", "--point ID [--onto DISKS] [--image FILE]", "make and check what restores this machine's own disks without its system", make_rescue},
    {"rescue-start", "[--image FILE] [--kernel FILE]", "leave this machine's system for that image, now", start_rescue},
    {"forget", "[--config FILE]", "let a stopped agent's tracker end: the next one reads everything", forget},
    {"thaw", "[--config FILE]", "thaw what an agent that was killed left frozen, and run after_thaw", thaw},
    {"unit", "[--folder DIR]", "print a systemd service for it", print_unit},
    {"uninstall", "[--folder DIR]", "remove its files, its service's and itself", uninstall},
    {"--version", "", "print the version", print_version},
    {"--help", "", "print this", print_help},
};

static int print_help(const struct options *o, struct err *e)
{
    (void)o, (void)e;
    puts("usage: slipway-agent COMMAND [OPTIONS]\n");
    for (size_t i = 0; i < ARRAY_COUNT(commands); i++)
        printf("  %-13s %-40s %s\n", commands[i].name, commands[i].arguments, commands[i].summary);
    puts("\nrestore: DISKS are names (sda,sdb), in the order of the point's disks; by their identity where none are given. It is done when a pass over\n"
         "all of them, read anew, finds nothing different; while a disk is half done, nothing boots from it.");
    printf("\nDIR is %s where it isn't given, FILE is DIR/config.json:\n%s", AGENT_FOLDER, agent_config_help);
    return 0;
}

int main(int argc, char **argv)
{
    struct options o = {.folder = AGENT_FOLDER};
    struct err e = {0};

    umask(022);
    if (getpid() == 1 && argc > 0 && strcmp(argv[0], "/init") == 0)
        rescue_live();
    log_open("slipway-agent", LOG_INFO);
    /* The machine's own OpenSSL configuration is for its own OpenSSL, not for the one in this program. */
    OPENSSL_init_ssl(OPENSSL_INIT_NO_LOAD_CONFIG, NULL);
    if (argc < 2) {
        print_help(&o, &e);
        return 2;
    }
    for (size_t i = 0; i < ARRAY_COUNT(commands); i++) {
        int got;

        if (strcmp(argv[1], commands[i].name) != 0)
            continue;
        got = options_read(&option_table, argc - 1, argv + 1, &o, &e);
        if ((got == 1 && print_help(&o, &e) == 0) || (got == 0 && commands[i].run(&o, &e) == 0))
            return fflush(stdout) == 0 ? 0 : 1;
        log_err(&e, "%s", argv[1]);
        return err_meaning(e.kind)->exit_code;
    }
    fprintf(stderr, "slipway-agent: there is no command %s (see slipway-agent --help)\n", argv[1]);
    return 2;
}
