/* What an S3-compatible store answers, and a file of credentials. The first byte: l a page of a list, c credentials, m a claim. */
#include "vault/bucket_private.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

static int look_at(const char *key, uint64_t size, void *user, struct err *e)
{
    (void)size;
    (void)e;
    MUST(key && *key && strlen(key) <= 1024);
    ++*(size_t *)user;
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    CLEANUP(s3_keys_release) struct s3_keys keys = {0};
    CLEANUP(json_free) json_t *claim = NULL;
    CLEANUP(free_ptr) char *text = NULL, *next = NULL, *code = NULL;
    size_t count = 0;

    if (size == 0 || size > 1u << 20)
        return 0;
    text = xmalloc(size);
    memcpy(text, bytes + 1, size - 1);
    text[size - 1] = '\0';
    if (bytes[0] == 'c') {
        if (s3_keys_parse(text, &keys, NULL) == 0)
            MUST(keys.access[0] && keys.secret_key.size_bytes);
        return 0;
    }
    if (bytes[0] == 'm') {
        claim = claim_parse(text, size - 1);
        MUST(!claim || (json_is_object(claim) && !json_object_get(claim, "sha256")));
        return 0;
    }
    code = s3_element(text, "Code");
    MUST(!code || strlen(code) <= size);
    if (s3_list_parse(text, look_at, &count, &next, NULL) == 0)
        MUST(count <= size / 30 && (!next || *next));
    return 0;
}
