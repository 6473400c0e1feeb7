#include "steps/agent_file.h"

#include "base/file.h"
#include "steps/step_run.h"

#include <elf.h>
#include <fcntl.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

static const struct {
    const char *arch;
    Elf64_Half machine;
} builds[] = {{"x86_64", EM_X86_64}, {"aarch64", EM_AARCH64}};

/* Of another kind than ELF (a program that wraps the agent) nothing is known: that it runs is looked at on the source. */
static int check_machine(const char *path, const char *arch, Elf64_Half machine, struct err *e)
{
    CLEANUP(close_fd) int fd = open(path, O_RDONLY | O_CLOEXEC);
    Elf64_Ehdr header = {0};

    if (fd < 0)
        return err_set(e, ERR_UNSUPPORTED, "there is no build of the agent for %s here: %s is missing", arch, path);
    if (pread(fd, &header, sizeof header, 0) == (ssize_t)sizeof header && memcmp(header.e_ident, ELFMAG, SELFMAG) == 0 && header.e_machine != machine)
        return err_set(e, ERR_UNSUPPORTED, "%s is not built for %s", path, arch);
    return 0;
}

int agent_file_find(const struct step *s, const char *arch, char **path, struct err *e)
{
    const char *named = step_string(s, "settings.agent_path", NULL);
    char program[4000] = "", *slash;
    struct utsname own = {0};
    size_t i = 0;

    while (i < ARRAY_COUNT(builds) && strcmp(builds[i].arch, arch) != 0)
        i++;
    if (i == ARRAY_COUNT(builds))
        return err_set(e, ERR_UNSUPPORTED, "the agent is not built for %s", *arch ? arch : "an unknown architecture");
    if (!named && readlink("/proc/self/exe", program, sizeof program - 1) < 0)
        return err_set(e, ERR_IO, "can't find out where this program is");
    uname(&own);
    slash = strrchr(program, '/');

    CLEANUP(free_ptr) char *beside = xasprintf("%.*s/slipway-agent", slash ? (int)(slash - program) : 0, program);
    CLEANUP(free_ptr) char *found = xasprintf("%s%s%s", named ? named : beside, strcmp(own.machine, arch) == 0 ? "" : ".", strcmp(own.machine, arch) == 0 ? "" : arch);

    if (check_machine(found, arch, builds[i].machine, e) < 0)
        return err_wrap(e, named ? "the setting agent_path" : "the agent must lie beside slipway, or be named by the setting agent_path");
    *path = found;
    found = NULL;
    return 0;
}
