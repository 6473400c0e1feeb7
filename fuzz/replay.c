/* replay: stands in for libFuzzer: gives each file of a folder to the target, once, and prints TAP. Usage: replay_TARGET FOLDER */
#include "base/file.h"
#include "tap.h"

#include <dirent.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

int main(int argc, char **argv)
{
    DIR *folder = argc == 2 ? opendir(argv[1]) : NULL;
    int count = 0;

    ok(folder != NULL, "there is a corpus");
    for (struct dirent *entry; folder && (entry = readdir(folder));) {
        CLEANUP(buf_release) struct buf content = {0};
        CLEANUP(free_ptr) char *path = xasprintf("%s/%s", argv[1], entry->d_name);
        uint8_t *copy;

        if (entry->d_name[0] == '.')
            continue;
        if (!ok(file_read(path, 64u << 20, &content, NULL) == 0, "%s is read", entry->d_name))
            continue;
        copy = xmalloc(content.size_bytes ? content.size_bytes : 1); /* of the exact size, so that a sanitizer sees a step too far */
        memcpy(copy, content.data, content.size_bytes);
        LLVMFuzzerTestOneInput(copy, content.size_bytes);
        free(copy);
        count++;
    }
    if (folder)
        closedir(folder);
    ok(count > 0, "%d inputs were replayed", count);
    return tap_done();
}
