#include "base/enrol.h"
#include "base/file.h"
#include "base/http.h"
#include "base/limits.h"

#include <openssl/ec.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <string.h>

static void free_bio(BIO **b) { BIO_free(*b); }
static void free_key(EVP_PKEY **k) { EVP_PKEY_free(*k); }
static void free_request(X509_REQ **r) { X509_REQ_free(*r); }
static void free_certificate(X509 **c) { X509_free(*c); }

int enrol_csr(const char *common_name, struct secret *key_pem, char **csr_pem, struct err *e)
{
    CLEANUP(free_key) EVP_PKEY *key = EVP_EC_gen("P-256");
    CLEANUP(free_request) X509_REQ *request = X509_REQ_new();
    CLEANUP(free_bio) BIO *key_bio = BIO_new(BIO_s_secmem() ? BIO_s_secmem() : BIO_s_mem());
    CLEANUP(free_bio) BIO *csr_bio = BIO_new(BIO_s_mem());
    X509_NAME *name = request ? X509_REQ_get_subject_name(request) : NULL;
    char *bytes = NULL;
    long size;

    if (!key || !name || !key_bio || !csr_bio ||
        X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_UTF8, (const unsigned char *)common_name, -1, -1, 0) != 1 ||
        X509_REQ_set_pubkey(request, key) != 1 || X509_REQ_sign(request, key, EVP_sha256()) <= 0 ||
        PEM_write_bio_X509_REQ(csr_bio, request) != 1 || PEM_write_bio_PrivateKey(key_bio, key, NULL, NULL, 0, NULL, NULL) != 1)
        return err_set(e, ERR_INTERNAL, "can't make a key and a certificate request for %s", common_name);
    size = BIO_get_mem_data(key_bio, &bytes);
    secret_set(key_pem, bytes, (size_t)size);
    size = BIO_get_mem_data(csr_bio, &bytes);
    *csr_pem = xasprintf("%.*s", (int)size, bytes);
    return 0;
}

/* The factory must not give us somebody else's name, nor a certificate for another key. */
static int check_certificate(const char *pem, const char *common_name, const struct secret *key_pem, struct err *e)
{
    CLEANUP(free_bio) BIO *bio = BIO_new_mem_buf(pem, -1);
    CLEANUP(free_bio) BIO *key_bio = BIO_new_mem_buf(key_pem->bytes, (int)key_pem->size_bytes);
    CLEANUP(free_certificate) X509 *certificate = bio ? PEM_read_bio_X509(bio, NULL, NULL, NULL) : NULL;
    CLEANUP(free_key) EVP_PKEY *key = key_bio ? PEM_read_bio_PrivateKey(key_bio, NULL, NULL, NULL) : NULL;
    char got[256] = "";

    if (!certificate || !key)
        return err_set(e, ERR_PROTOCOL, "the factory's certificate can't be read");
    X509_NAME_get_text_by_NID(X509_get_subject_name(certificate), NID_commonName, got, sizeof got);
    if (strcmp(got, common_name) != 0)
        return err_set(e, ERR_PROTOCOL, "the factory gave a certificate for \"%s\", wanted was \"%s\": was the token made for this name?", got,
                       common_name);
    if (X509_check_private_key(certificate, key) != 1)
        return err_set(e, ERR_PROTOCOL, "the factory's certificate is for another key");
    return 0;
}

static int post(const struct enrol_options *o, const char *ca_file, const char *csr_pem, json_t **answer, struct err *e)
{
    CLEANUP(http_close) struct http_client *client = NULL;
    CLEANUP(free_ptr) char *url = xasprintf("%s/v1/enrol", o->factory_url);
    CLEANUP(json_free) json_t *body = json_pack("{s:s, s:s}", "token", o->token, "csr_pem", csr_pem);
    struct http_request request = {.method = "POST", .url = url};

    if (!body)
        return err_set(e, ERR_INVALID, "the token is not UTF-8 text");
    if (http_open(&(struct http_options){.ca_file = ca_file}, &client, e) < 0)
        return -1;
    if (http_json(client, &request, body, answer, NULL, e) < 0)
        return -1;
    return *answer ? 0 : err_set(e, ERR_PROTOCOL, "the factory's answer to the enrolment is empty");
}

/* Writes ca.pem: what is trusted from here on is what the operator named, not what the answer says. */
static int keep_ca(const struct enrol_options *o, const char *path, struct err *e)
{
    CLEANUP(buf_release) struct buf bytes = {0};
    CLEANUP(free_ptr) char *pinned = NULL;

    if (o->ca_file) {
        if (file_read(o->ca_file, LIMIT_REQUEST_BODY_BYTES / 64, &bytes, e) < 0)
            return -1;
        return file_write(path, bytes.data, bytes.size_bytes, 0644, e);
    }
    if (!o->ca_fingerprint)
        return err_set(e, ERR_INVALID, "the factory's CA must be named: a file, or its fingerprint");
    if (http_pin(o->factory_url, o->ca_fingerprint, &pinned, e) < 0)
        return -1;
    return file_write(path, pinned, strlen(pinned), 0644, e);
}

int enrol(const struct enrol_options *o, struct err *e)
{
    CLEANUP(free_ptr) char *key_path = xasprintf("%s/%s", o->folder, ENROL_KEY);
    CLEANUP(free_ptr) char *certificate_path = xasprintf("%s/%s", o->folder, ENROL_CERTIFICATE);
    CLEANUP(free_ptr) char *ca_path = xasprintf("%s/%s", o->folder, ENROL_CA);
    CLEANUP(free_ptr) char *common_name = xasprintf("%s:%s", o->kind, o->name);
    CLEANUP(secret_release) struct secret key = {0};
    CLEANUP(free_ptr) char *csr = NULL;
    CLEANUP(json_free) json_t *answer = NULL;
    const char *certificate;

    if (file_exists(certificate_path) && file_exists(key_path) && file_exists(ca_path))
        return 1;
    if (!o->token || !*o->token)
        return err_set(e, ERR_INVALID, "%s %s is not enrolled yet and needs a one-time token: an operator makes one with `slipway enrolment`",
                       o->kind, o->name);
    if (file_make_dirs(o->folder, 0700, e) < 0 || keep_ca(o, ca_path, e) < 0 || enrol_csr(common_name, &key, &csr, e) < 0 ||
        post(o, ca_path, csr, &answer, e) < 0 || json_need_string(answer, "certificate_pem", &certificate, e) < 0 ||
        check_certificate(certificate, common_name, &key, e) < 0 || file_write(key_path, key.bytes, key.size_bytes, 0600, e) < 0 ||
        file_write(certificate_path, certificate, strlen(certificate), 0644, e) < 0)
        return err_wrap(e, "can't enrol %s at %s", common_name, o->factory_url);
    return 0;
}
