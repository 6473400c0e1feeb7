/* The agent's key, certificate request and certificate. */
#include "agent/agent.h"
#include "base/file.h"
#include "base/tls.h"

#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <string.h>
#include <sys/stat.h>

#define PEM_LIMIT (256u << 10)
#define NAME_SIZE (LIMIT_NAME_BYTES + 16)

static void release_wiped(struct buf *b)
{
    if (b->data)
        explicit_bzero(b->data, b->size_bytes);
    buf_release(b);
}

static void free_bio(BIO **bio) { BIO_free(*bio); }
static void free_key(EVP_PKEY **key) { EVP_PKEY_free(*key); }

static EVP_PKEY *make_key(const char *path, struct err *e)
{
    CLEANUP(free_bio) BIO *bio = BIO_new(BIO_s_mem());
    EVP_PKEY *key = EVP_EC_gen("P-256");
    char *text;
    long size;

    if (!key || PEM_write_bio_PKCS8PrivateKey(bio, key, NULL, NULL, 0, NULL, NULL) != 1) {
        EVP_PKEY_free(key);
        err_set(e, ERR_INTERNAL, "can't make a key");
        return NULL;
    }
    size = BIO_get_mem_data(bio, &text);
    if (file_write(path, text, (size_t)size, 0600, e) < 0) {
        EVP_PKEY_free(key);
        key = NULL;
    }
    OPENSSL_cleanse(text, (size_t)size);
    return key;
}

static EVP_PKEY *read_key(const char *path, struct err *e)
{
    CLEANUP(release_wiped) struct buf text = {0};
    CLEANUP(free_bio) BIO *bio = NULL;
    EVP_PKEY *key;

    if (file_read(path, PEM_LIMIT, &text, e) < 0)
        return NULL;
    bio = BIO_new_mem_buf(text.data, (int)text.size_bytes);
    key = PEM_read_bio_PrivateKey(bio, NULL, NULL, NULL);
    if (!key)
        err_set(e, ERR_CORRUPT, "%s holds no key: remove it and enrol again", path);
    return key;
}

static int write_request(EVP_PKEY *key, const char *name, struct buf *csr_pem, struct err *e)
{
    CLEANUP(free_bio) BIO *bio = BIO_new(BIO_s_mem());
    X509_REQ *request = X509_REQ_new();
    bool made = request && X509_REQ_set_version(request, 0) == 1 &&
                X509_NAME_add_entry_by_txt(X509_REQ_get_subject_name(request), "CN", MBSTRING_UTF8, (const unsigned char *)name, -1,
                                           -1, 0) == 1 &&
                X509_REQ_set_pubkey(request, key) == 1 && X509_REQ_sign(request, key, EVP_sha256()) > 0 &&
                PEM_write_bio_X509_REQ(bio, request) == 1;
    char *text;
    long size = BIO_get_mem_data(bio, &text);

    X509_REQ_free(request);
    if (!made || buf_add(csr_pem, text, (size_t)size) < 0)
        return err_set(e, ERR_INVALID, "can't make a certificate request for %s (a name has at most 64 bytes)", name);
    return 0;
}

int agent_csr(const char *folder, const char *server, struct buf *csr_pem, struct err *e)
{
    CLEANUP(free_ptr) char *path = xasprintf("%s/key.pem", folder);
    CLEANUP(free_key) EVP_PKEY *key = NULL;
    char name[NAME_SIZE];

    if (!*server || strlen(server) > LIMIT_NAME_BYTES)
        return err_set(e, ERR_INVALID, "a server's name has 1 to %d bytes", LIMIT_NAME_BYTES);
    snprintf(name, sizeof name, "agent:%s", server);
    if (file_make_dirs(folder, 0700, e) < 0)
        return -1;
    key = file_exists(path) ? read_key(path, e) : make_key(path, e);
    if (!key)
        return -1;
    return write_request(key, name, csr_pem, e);
}

int agent_install_certificate(const char *folder, const char *pem, struct err *e)
{
    static const char end[] = "-----END CERTIFICATE-----";
    CLEANUP(free_ptr) char *key_path = xasprintf("%s/key.pem", folder);
    CLEANUP(free_ptr) char *certificate_path = xasprintf("%s/cert.pem", folder);
    CLEANUP(free_ptr) char *ca_path = xasprintf("%s/ca.pem", folder);
    CLEANUP(tls_context_free) struct tls_context *context = NULL;
    CLEANUP(release_wiped) struct buf key = {0};
    CLEANUP(free_ptr) char *certificate = NULL;
    const char *first_end = strstr(pem, end), *rest;

    if (!first_end)
        return err_set(e, ERR_INVALID, "the input holds no certificate");
    rest = first_end + sizeof end - 1;
    certificate = xasprintf("%.*s\n", (int)(rest - pem), pem);
    if (file_read(key_path, PEM_LIMIT, &key, e) < 0)
        return err_wrap(e, "make the key first (slipway-agent csr)");
    if (tls_context_new(TLS_CLIENT, certificate, key.data, rest, &context, e) < 0)
        return -1;
    if (file_write(certificate_path, certificate, strlen(certificate), 0644, e) < 0)
        return -1;
    return file_write(ca_path, rest, strlen(rest), 0644, e);
}
