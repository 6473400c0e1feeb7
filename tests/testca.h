/* testca: a certificate authority for tests: P-256 keys, certificates for an hour. Link with openssl. */
#pragma once

#include "base/mem.h"

#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <signal.h>

struct test_ca {
    EVP_PKEY *key;
    X509 *certificate;
    char *pem;
};

static char *testca_bio_text(BIO *bio)
{
    char *bytes, *text;
    long size = BIO_get_mem_data(bio, &bytes);

    text = xcalloc(1, (size_t)size + 1);
    memcpy(text, bytes, (size_t)size);
    BIO_free(bio);
    return text;
}

static X509 *testca_certificate(const char *name, EVP_PKEY *key, X509 *issuer, EVP_PKEY *issuer_key)
{
    X509 *c = X509_new();
    static long serial = 1;

    MUST(c && key && X509_set_version(c, 2) == 1);
    ASN1_INTEGER_set(X509_get_serialNumber(c), serial++);
    X509_gmtime_adj(X509_getm_notBefore(c), -60);
    X509_gmtime_adj(X509_getm_notAfter(c), 3600);
    X509_set_pubkey(c, key);
    X509_NAME_add_entry_by_txt(X509_get_subject_name(c), "CN", MBSTRING_UTF8, (const unsigned char *)name, -1, -1, 0);
    X509_set_issuer_name(c, X509_get_subject_name(issuer ? issuer : c));
    if (!issuer) {
        X509_EXTENSION *x = X509V3_EXT_conf_nid(NULL, NULL, NID_basic_constraints, "critical,CA:TRUE");

        X509_add_ext(c, x, -1);
        X509_EXTENSION_free(x);
    }
    MUST(X509_sign(c, issuer_key, EVP_sha256()) > 0);
    return c;
}

__attribute__((unused)) static void test_ca_make(struct test_ca *ca)
{
    BIO *bio = BIO_new(BIO_s_mem());

    ca->key = EVP_EC_gen("P-256");
    ca->certificate = testca_certificate("test CA", ca->key, NULL, ca->key);
    PEM_write_bio_X509(bio, ca->certificate);
    ca->pem = testca_bio_text(bio);
}

/* pem[0] the certificate, pem[1] the key; the caller frees both. */
__attribute__((unused)) static void test_ca_sign(struct test_ca *ca, const char *name, char *pem[2])
{
    EVP_PKEY *key = EVP_EC_gen("P-256");
    X509 *c = testca_certificate(name, key, ca->certificate, ca->key);
    BIO *certificate_bio = BIO_new(BIO_s_mem()), *key_bio = BIO_new(BIO_s_mem());

    PEM_write_bio_X509(certificate_bio, c);
    PEM_write_bio_PrivateKey(key_bio, key, NULL, NULL, 0, NULL, NULL);
    pem[0] = testca_bio_text(certificate_bio);
    pem[1] = testca_bio_text(key_bio);
    X509_free(c);
    EVP_PKEY_free(key);
}

__attribute__((unused)) static void test_ca_release(struct test_ca *ca)
{
    X509_free(ca->certificate);
    EVP_PKEY_free(ca->key);
    free(ca->pem);
}
