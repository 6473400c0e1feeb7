/* The certificate that the other end of a connection showed. It is verified against the factory's CA, for use by a client. */
#include "api/httpd_private.h"

#include "base/clock.h"

#include <gnutls/gnutls.h>
#include <gnutls/x509.h>

static void refuse(struct link *l, const char *why)
{
    l->certificate = -1;
    snprintf(l->why, sizeof l->why, "%s", why);
}

static void take(struct link *l, const gnutls_datum_t *der)
{
    gnutls_x509_crt_t certificate;
    gnutls_datum_t pem = {0};

    if (gnutls_x509_crt_init(&certificate) < 0) {
        refuse(l, "out of memory");
        return;
    }
    if (gnutls_x509_crt_import(certificate, der, GNUTLS_X509_FMT_DER) < 0 ||
        gnutls_x509_crt_export2(certificate, GNUTLS_X509_FMT_PEM, &pem) < 0) {
        refuse(l, "it can't be read");
    } else {
        l->pem = (char *)pem.data; /* which ends in a NUL */
        l->certificate_ends_us = (int64_t)gnutls_x509_crt_get_expiration_time(certificate) * US_PER_S;
        l->certificate = 1;
    }
    gnutls_x509_crt_deinit(certificate);
}

void peer_look(struct call *c)
{
    const union MHD_ConnectionInfo *info = MHD_get_connection_info(c->connection, MHD_CONNECTION_INFO_GNUTLS_SESSION);
    gnutls_typed_vdata_st purpose = {.type = GNUTLS_DT_KEY_PURPOSE_OID, .data = (unsigned char *)(uintptr_t)GNUTLS_KP_TLS_WWW_CLIENT};
    const gnutls_datum_t *chain;
    unsigned count = 0, status = 0;
    struct link *l = c->link;

    l->certificate = 0;
    if (!info || !info->tls_session || !c->server->options.ca_pem)
        return;
    chain = gnutls_certificate_get_peers(info->tls_session, &count);
    if (!chain || !count)
        return;
    if (gnutls_certificate_verify_peers(info->tls_session, &purpose, 1, &status) < 0)
        refuse(l, "it can't be verified");
    else if (status & GNUTLS_CERT_EXPIRED)
        refuse(l, "it has expired: enrol again");
    else if (status & GNUTLS_CERT_NOT_ACTIVATED)
        refuse(l, "it isn't valid yet: check this machine's clock");
    else if (status)
        refuse(l, "this factory didn't issue it, or not for a client");
    else
        take(l, &chain[0]);
}
