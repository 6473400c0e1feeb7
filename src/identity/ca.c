/* ca: the factory's certificate authority: EC P-256, made at the first start, its key sealed. It signs certificates for runners,
 * replicators, agents and the API itself; they are all that the three programs trust. */
#include "identity/private.h"

#include "base/file.h"

#include <arpa/inet.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/x509v3.h>
#include <sodium.h>
#include <string.h>

#define DAY_US (INT64_C(86400) * US_PER_S)
#define CA_VALID_US (3650 * DAY_US)
#define SERVER_VALID_US (397 * DAY_US)
#define BACKDATED_US (INT64_C(3600) * US_PER_S) /* so that a peer whose clock is behind takes it */

static void free_bio(BIO **b) { BIO_free_all(*b); }
static void free_key(EVP_PKEY **k) { EVP_PKEY_free(*k); }
static void free_x509(X509 **x) { X509_free(*x); }
static void free_request(X509_REQ **r) { X509_REQ_free(*r); }
static void free_number(BIGNUM **n) { BN_free(*n); }
static void free_names(GENERAL_NAMES **n) { GENERAL_NAMES_free(*n); }
static void free_trust(X509_STORE **s) { X509_STORE_free(*s); }
static void free_context(X509_STORE_CTX **c) { X509_STORE_CTX_free(*c); }

static int add_extension(X509 *certificate, X509 *issuer, int nid, const char *value)
{
    X509V3_CTX context;
    X509_EXTENSION *extension;
    int rc;

    X509V3_set_ctx(&context, issuer, certificate, NULL, NULL, 0);
    extension = X509V3_EXT_conf_nid(NULL, &context, nid, value);
    rc = extension && X509_add_ext(certificate, extension, -1) == 1;
    X509_EXTENSION_free(extension);
    return rc;
}

/* 16 bytes, the first in 0x40-0x7f: positive, and the same text wherever it is printed. */
static int set_serial(X509 *certificate, char serial[static SERIAL_HEX_SIZE])
{
    unsigned char bytes[16];
    CLEANUP(free_number) BIGNUM *number = NULL;

    if (RAND_bytes(bytes, sizeof bytes) != 1)
        return 0;
    bytes[0] = (unsigned char)(0x40 | (bytes[0] & 0x3f));
    number = BN_bin2bn(bytes, sizeof bytes, NULL);
    hash_hex(bytes, sizeof bytes, serial);
    return number && BN_to_ASN1_INTEGER(number, X509_get_serialNumber(certificate)) != NULL;
}

static int fill(X509 *certificate, const char *common_name, EVP_PKEY *key, int64_t now_us, int64_t valid_us,
                char serial[static SERIAL_HEX_SIZE])
{
    X509_NAME *name = X509_get_subject_name(certificate);

    return X509_set_version(certificate, X509_VERSION_3) == 1 && set_serial(certificate, serial)
        && ASN1_TIME_set(X509_getm_notBefore(certificate), (time_t)((now_us - BACKDATED_US) / US_PER_S))
        && ASN1_TIME_set(X509_getm_notAfter(certificate), (time_t)((now_us + valid_us) / US_PER_S))
        && X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_UTF8, (const unsigned char *)common_name, -1, -1, 0) == 1
        && X509_set_pubkey(certificate, key) == 1;
}

static int make_ca(int64_t now_us, EVP_PKEY **key_out, X509 **out, struct err *e)
{
    CLEANUP(free_key) EVP_PKEY *key = EVP_EC_gen("P-256");
    CLEANUP(free_x509) X509 *ca = X509_new();
    char serial[SERIAL_HEX_SIZE], name[64];
    unsigned char mark[4];

    randombytes_buf(mark, sizeof mark); /* so that two factories' CAs have two names */
    snprintf(name, sizeof name, "Slipway CA %02x%02x%02x%02x", mark[0], mark[1], mark[2], mark[3]);
    if (!key || !ca || !fill(ca, name, key, now_us, CA_VALID_US, serial)
        || X509_set_issuer_name(ca, X509_get_subject_name(ca)) != 1
        || !add_extension(ca, ca, NID_basic_constraints, "critical,CA:TRUE,pathlen:0")
        || !add_extension(ca, ca, NID_key_usage, "critical,keyCertSign,cRLSign")
        || !add_extension(ca, ca, NID_subject_key_identifier, "hash") || X509_sign(ca, key, EVP_sha256()) <= 0)
        return err_set(e, ERR_INTERNAL, "the CA's certificate can't be made");
    *key_out = key;
    *out = ca;
    key = NULL;
    ca = NULL;
    return 0;
}

static int add_name(GENERAL_NAMES *names, const char *text)
{
    unsigned char address[16];
    bool is_v4 = inet_pton(AF_INET, text, address) == 1, is_address = is_v4 || inet_pton(AF_INET6, text, address) == 1;
    GENERAL_NAME *name = GENERAL_NAME_new();
    ASN1_STRING *value = is_address ? ASN1_OCTET_STRING_new() : ASN1_IA5STRING_new();

    if (!name || !value || ASN1_STRING_set(value, is_address ? (const void *)address : text, is_v4 ? 4 : is_address ? 16 : -1) != 1) {
        GENERAL_NAME_free(name);
        ASN1_STRING_free(value);
        return 0;
    }
    GENERAL_NAME_set0_value(name, is_address ? GEN_IPADD : GEN_DNS, value);
    if (sk_GENERAL_NAME_push(names, name) > 0)
        return 1;
    GENERAL_NAME_free(name);
    return 0;
}

static int add_names(X509 *certificate, const char *const *wanted, int count)
{
    CLEANUP(free_names) GENERAL_NAMES *names = GENERAL_NAMES_new();

    for (int i = 0; i < count; i++)
        if (!names || !add_name(names, wanted[i]))
            return 0;
    return count == 0 || X509_add1_ext_i2d(certificate, NID_subject_alt_name, names, 0, X509V3_ADD_DEFAULT) == 1;
}

int ca_issue(struct identity *i, const struct certificate_wanted *wanted, X509 **out, char serial[static SERIAL_HEX_SIZE],
             int64_t *expires_us, struct err *e)
{
    CLEANUP(free_x509) X509 *certificate = X509_new();
    int64_t now_us = identity_now_us(i);
    char made[SERIAL_HEX_SIZE];

    if (!certificate || !fill(certificate, wanted->common_name, wanted->key, now_us, wanted->valid_us, made)
        || X509_set_issuer_name(certificate, X509_get_subject_name(i->ca_certificate)) != 1
        || !add_extension(certificate, i->ca_certificate, NID_basic_constraints, "critical,CA:FALSE")
        || !add_extension(certificate, i->ca_certificate, NID_key_usage, "critical,digitalSignature")
        || !add_extension(certificate, i->ca_certificate, NID_ext_key_usage, wanted->key_usage)
        || !add_extension(certificate, i->ca_certificate, NID_subject_key_identifier, "hash")
        || !add_extension(certificate, i->ca_certificate, NID_authority_key_identifier, "keyid")
        || !add_names(certificate, wanted->names, wanted->name_count) || X509_sign(certificate, i->ca_key, EVP_sha256()) <= 0)
        return err_set(e, ERR_INTERNAL, "the certificate for %s can't be made", wanted->common_name);
    memcpy(serial, made, SERIAL_HEX_SIZE);
    *expires_us = now_us + wanted->valid_us;
    *out = certificate;
    certificate = NULL;
    return 0;
}

char *ca_certificate_text(X509 *certificate)
{
    CLEANUP(free_bio) BIO *bio = BIO_new(BIO_s_mem());
    char *bytes = NULL;
    long size;

    MUST(bio && PEM_write_bio_X509(bio, certificate) == 1);
    size = BIO_get_mem_data(bio, &bytes);
    return xasprintf("%.*s", (int)size, bytes);
}

static int key_text(EVP_PKEY *key, struct secret *out, struct err *e)
{
    CLEANUP(free_bio) BIO *bio = BIO_new(BIO_s_secmem());
    char *bytes = NULL;
    long size;

    if (!bio || PEM_write_bio_PrivateKey(bio, key, NULL, NULL, 0, NULL, NULL) != 1)
        return err_set(e, ERR_INTERNAL, "a private key can't be written");
    size = BIO_get_mem_data(bio, &bytes);
    secret_set(out, bytes, (size_t)size);
    return 0;
}

/* Reads a sealed key, or a certificate, of the folder. */
static int read_sealed_key(struct identity *i, const char *path, const char *context, struct secret *pem, EVP_PKEY **out, struct err *e)
{
    CLEANUP(buf_release) struct buf sealed;
    CLEANUP(free_bio) BIO *bio = NULL;

    buf_init(&sealed, 65536);
    if (file_read(path, 65536, &sealed, e) < 0 || identity_unseal(i, context, sealed.data, sealed.size_bytes, pem, e) < 0)
        return -1;
    bio = BIO_new_mem_buf(pem->bytes, (int)pem->size_bytes);
    *out = bio ? PEM_read_bio_PrivateKey(bio, NULL, NULL, NULL) : NULL;
    return *out ? 0 : err_set(e, ERR_CORRUPT, "%s holds no key", path);
}

static int write_sealed_key(struct identity *i, const char *path, const char *context, const struct secret *pem, struct err *e)
{
    CLEANUP(buf_release) struct buf sealed;

    buf_init(&sealed, 65536);
    if (identity_seal(i, context, pem->bytes, pem->size_bytes, &sealed, e) < 0)
        return -1;
    return file_write(path, sealed.data, sealed.size_bytes, 0600, e);
}

static X509 *parse_certificate(const char *pem)
{
    CLEANUP(free_bio) BIO *bio = BIO_new_mem_buf(pem, -1);

    return bio ? PEM_read_bio_X509(bio, NULL, NULL, NULL) : NULL;
}

static int read_certificate(const char *path, X509 **out, struct err *e)
{
    CLEANUP(buf_release) struct buf text;

    buf_init(&text, 65536);
    if (file_read(path, 65535, &text, e) < 0)
        return -1;
    *out = parse_certificate(text.data);
    return *out ? 0 : err_set(e, ERR_CORRUPT, "%s holds no certificate", path);
}

static int certificates_issued(struct identity *i, int64_t *count, struct err *e)
{
    CLEANUP(store_rollback) struct store_tx *tx = NULL;

    *count = 0;
    if (store_begin(i->store, STORE_READ, &tx, e) < 0)
        return -1;
    return store_one_int(tx, count, e, "SELECT COUNT(*) FROM certificate", "") < 0 ? -1 : 0;
}

static int ca_first_start(struct identity *i, const char *pem_path, const char *key_path, struct err *e)
{
    CLEANUP(secret_release) struct secret pem = {0};
    CLEANUP(free_ptr) char *text = NULL;
    int64_t issued;

    if (certificates_issued(i, &issued, e) < 0)
        return -1;
    if (issued)
        return err_set(e, ERR_WRONG_STATE, "%s is missing, and %lld certificates were issued by it: put it and %s back from the backup",
                       pem_path, (long long)issued, key_path);
    if (make_ca(identity_now_us(i), &i->ca_key, &i->ca_certificate, e) < 0 || key_text(i->ca_key, &pem, e) < 0)
        return -1;
    text = ca_certificate_text(i->ca_certificate);
    /* The key first: a certificate that is there has its key. */
    return write_sealed_key(i, key_path, "ca.key", &pem, e) < 0 ? -1 : file_write(pem_path, text, strlen(text), 0644, e);
}

int ca_open(struct identity *i, struct err *e)
{
    CLEANUP(free_ptr) char *pem_path = xasprintf("%s/ca.pem", i->folder);
    CLEANUP(free_ptr) char *key_path = xasprintf("%s/ca.key", i->folder);
    CLEANUP(secret_release) struct secret pem = {0};
    unsigned char hash[32];
    unsigned size = sizeof hash;
    char hex[HASH_SHA256_HEX_SIZE];

    if (!file_exists(pem_path)) {
        if (ca_first_start(i, pem_path, key_path, e) < 0)
            return err_wrap(e, "making the CA");
    } else if (read_certificate(pem_path, &i->ca_certificate, e) < 0
               || read_sealed_key(i, key_path, "ca.key", &pem, &i->ca_key, e) < 0) {
        return err_wrap(e, "the CA");
    }
    if (X509_check_private_key(i->ca_certificate, i->ca_key) != 1)
        return err_set(e, ERR_CORRUPT, "%s is not the key of %s: put both back from the same backup", key_path, pem_path);
    MUST(X509_digest(i->ca_certificate, EVP_sha256(), hash, &size) == 1);
    i->ca_pem = ca_certificate_text(i->ca_certificate);
    i->ca_fingerprint = xasprintf("SHA256:%s", hash_hex(hash, sizeof hash, hex));
    return 0;
}

const char *identity_ca_pem(const struct identity *i)
{
    return i->ca_pem;
}

const char *identity_ca_fingerprint(const struct identity *i)
{
    return i->ca_fingerprint;
}

int ca_read_request(const char *csr_pem, EVP_PKEY **out, struct err *e)
{
    CLEANUP(free_bio) BIO *bio = BIO_new_mem_buf(csr_pem, -1);
    CLEANUP(free_request) X509_REQ *request = bio ? PEM_read_bio_X509_REQ(bio, NULL, NULL, NULL) : NULL;
    CLEANUP(free_key) EVP_PKEY *key = request ? X509_REQ_get_pubkey(request) : NULL;

    if (!key)
        return err_set(e, ERR_INVALID, "csr_pem is not a certificate request in PEM");
    if (X509_REQ_verify(request, key) != 1)
        return err_set(e, ERR_INVALID, "the certificate request is not signed by its own key");
    if (EVP_PKEY_get_security_bits(key) < 112)
        return err_set(e, ERR_INVALID, "the request's key is too weak: use EC P-256 or RSA 2048");
    *out = key;
    key = NULL;
    return 0;
}

/* 1 where our CA signed it, it is in its time and has the purpose; else 0 and why. */
static int verify(struct identity *i, X509 *certificate, int purpose, const char **why)
{
    CLEANUP(free_trust) X509_STORE *trust = X509_STORE_new();
    CLEANUP(free_context) X509_STORE_CTX *context = X509_STORE_CTX_new();

    *why = "it can't be verified";
    if (!trust || !context || X509_STORE_add_cert(trust, i->ca_certificate) != 1
        || X509_STORE_CTX_init(context, trust, certificate, NULL) != 1 || X509_STORE_CTX_set_purpose(context, purpose) != 1)
        return 0;
    X509_VERIFY_PARAM_set_time(X509_STORE_CTX_get0_param(context), (time_t)(identity_now_us(i) / US_PER_S));
    if (X509_verify_cert(context) == 1)
        return 1;
    switch (X509_STORE_CTX_get_error(context)) {
    case X509_V_ERR_CERT_HAS_EXPIRED: *why = "it has expired: enrol again"; break;
    case X509_V_ERR_CERT_NOT_YET_VALID: *why = "it is not valid yet: compare the clocks"; break;
    case X509_V_ERR_INVALID_PURPOSE: *why = "it is not for this use"; break;
    default: *why = "this factory's CA did not sign it"; break;
    }
    return 0;
}

int ca_read_client(struct identity *i, const char *certificate_pem, char common_name[static 256], char serial[static SERIAL_HEX_SIZE],
                   struct err *e)
{
    CLEANUP(free_x509) X509 *certificate = parse_certificate(certificate_pem);
    CLEANUP(free_number) BIGNUM *number = NULL;
    unsigned char bytes[16];
    const char *why;

    if (!certificate)
        return err_set(e, ERR_UNAUTHENTICATED, "the certificate can't be read");
    if (!verify(i, certificate, X509_PURPOSE_SSL_CLIENT, &why))
        return err_set(e, ERR_UNAUTHENTICATED, "the certificate is refused: %s", why);
    number = ASN1_INTEGER_to_BN(X509_get0_serialNumber(certificate), NULL);
    if (!number || BN_bn2binpad(number, bytes, sizeof bytes) < 0
        || X509_NAME_get_text_by_NID(X509_get_subject_name(certificate), NID_commonName, common_name, 256) < 0)
        return err_set(e, ERR_UNAUTHENTICATED, "the certificate's name or number can't be read");
    hash_hex(bytes, sizeof bytes, serial);
    return 0;
}

static bool covers(X509 *certificate, const char *name)
{
    unsigned char address[16];

    if (inet_pton(AF_INET, name, address) == 1 || inet_pton(AF_INET6, name, address) == 1)
        return X509_check_ip_asc(certificate, name, 0) == 1;
    return X509_check_host(certificate, name, 0, 0, NULL) == 1;
}

/* The folder's server certificate, where it still serves: 1, else 0. */
static int server_certificate_holds(struct identity *i, const char *pem_path, const char *key_path, const char *const *names, int count,
                                    X509 **out, struct secret *key_pem)
{
    CLEANUP(free_x509) X509 *certificate = NULL;
    CLEANUP(free_key) EVP_PKEY *key = NULL;
    CLEANUP(secret_release) struct secret pem = {0};
    time_t renew = (time_t)((identity_now_us(i) + IDENTITY_RENEW_US) / US_PER_S);
    const char *why;

    if (read_certificate(pem_path, &certificate, NULL) < 0 || read_sealed_key(i, key_path, "server.key", &pem, &key, NULL) < 0
        || X509_check_private_key(certificate, key) != 1 || !verify(i, certificate, X509_PURPOSE_SSL_SERVER, &why)
        || X509_cmp_time(X509_get0_notAfter(certificate), &renew) <= 0)
        return 0;
    for (int n = 0; n < count; n++)
        if (!covers(certificate, names[n]))
            return 0;
    *out = certificate;
    certificate = NULL;
    secret_set(key_pem, pem.bytes, pem.size_bytes);
    return 1;
}

static int make_server_certificate(struct identity *i, const char *pem_path, const char *key_path, const char *const *names, int count,
                                   X509 **out, struct secret *key_pem, struct err *e)
{
    CLEANUP(free_key) EVP_PKEY *key = EVP_EC_gen("P-256");
    CLEANUP(free_x509) X509 *certificate = NULL;
    CLEANUP(secret_release) struct secret pem = {0};
    CLEANUP(free_ptr) char *text = NULL;
    struct certificate_wanted wanted = {.common_name = "slipway", .key = key, .key_usage = "serverAuth", .names = names,
                                        .name_count = count, .valid_us = SERVER_VALID_US};
    char serial[SERIAL_HEX_SIZE];
    int64_t expires_us;

    if (!key)
        return err_set(e, ERR_INTERNAL, "no key can be made");
    if (ca_issue(i, &wanted, &certificate, serial, &expires_us, e) < 0 || key_text(key, &pem, e) < 0)
        return -1;
    text = ca_certificate_text(certificate);
    if (write_sealed_key(i, key_path, "server.key", &pem, e) < 0 || file_write(pem_path, text, strlen(text), 0644, e) < 0)
        return -1;
    *out = certificate;
    certificate = NULL;
    secret_set(key_pem, pem.bytes, pem.size_bytes);
    return 0;
}

int identity_server_certificate(struct identity *i, const char *const *names, int name_count, char **certificate_pem,
                                struct secret *key_pem, struct err *e)
{
    static const char *const always[] = {"localhost", "127.0.0.1", "::1"};
    CLEANUP(free_ptr) const char **all = xcalloc(ARRAY_COUNT(always) + (size_t)name_count, sizeof *all);
    CLEANUP(free_ptr) char *pem_path = xasprintf("%s/server.pem", i->folder);
    CLEANUP(free_ptr) char *key_path = xasprintf("%s/server.key", i->folder);
    CLEANUP(free_x509) X509 *certificate = NULL;
    CLEANUP(secret_release) struct secret key = {0};
    CLEANUP(free_ptr) char *text = NULL;
    int count = 0;

    for (size_t n = 0; n < ARRAY_COUNT(always); n++)
        all[count++] = always[n];
    for (int n = 0; n < name_count; n++) {
        if (!*names[n] || strlen(names[n]) > 253 || names[n][strcspn(names[n], " \t\r\n,/\\\"'")])
            return err_set(e, ERR_INVALID, "\"%s\" is no name or address for the API's certificate", names[n]);
        all[count++] = names[n];
    }
    if (!server_certificate_holds(i, pem_path, key_path, all, count, &certificate, &key)
        && make_server_certificate(i, pem_path, key_path, all, count, &certificate, &key, e) < 0)
        return err_wrap(e, "the API's certificate");
    text = ca_certificate_text(certificate);
    *certificate_pem = xasprintf("%s%s", text, i->ca_pem);
    secret_set(key_pem, key.bytes, key.size_bytes);
    return 0;
}

static int ends(const X509 *certificate, int64_t *out_us, struct err *e)
{
    struct tm parts;

    if (ASN1_TIME_to_tm(X509_get0_notAfter(certificate), &parts) != 1)
        return err_set(e, ERR_CORRUPT, "a certificate does not say when it ends");
    *out_us = (int64_t)timegm(&parts) * US_PER_S;
    return 0;
}

int identity_own_ends(struct identity *i, int64_t *api_us, int64_t *ca_us, struct err *e)
{
    CLEANUP(free_ptr) char *path = xasprintf("%s/server.pem", i->folder);
    CLEANUP(free_x509) X509 *certificate = NULL;

    return read_certificate(path, &certificate, e) < 0 || ends(certificate, api_us, e) < 0 ? -1 : ends(i->ca_certificate, ca_us, e);
}
