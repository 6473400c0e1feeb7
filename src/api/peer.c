/* The certificate that the other end of a connection showed. It is verified against the factory's CA, for use by a client. */
#include "api/httpd_private.h"

#include "base/clock.h"

#include <gnutls/gnutls.h>
#include <gnutls/x509.h>
#include <string.h>

static void refuse(struct link *l, const char *why)
{
    l->certificate = -1;
    snprintf(l->why, sizeof l->why, "%s", why);
}

static void take_names(struct link *l, const gnutls_datum_t *der)
{
    unsigned char serial[32];
    size_t name_size = sizeof l->name, serial_size = sizeof serial, text_size = sizeof l->serial;
    gnutls_x509_crt_t certificate;
    gnutls_datum_t bytes = {serial, 0};

    if (gnutls_x509_crt_init(&certificate) < 0) {
        refuse(l, "out of memory");
        return;
    }
    if (gnutls_x509_crt_import(certificate, der, GNUTLS_X509_FMT_DER) < 0 ||
        gnutls_x509_crt_get_dn_by_oid(certificate, GNUTLS_OID_X520_COMMON_NAME, 0, 0, l->name, &name_size) < 0 ||
        strlen(l->name) != name_size || gnutls_x509_crt_get_serial(certificate, serial, &serial_size) < 0) {
        refuse(l, "its name can't be read");
    } else {
        bytes.size = (unsigned)serial_size;
        if (gnutls_hex_encode(&bytes, l->serial, &text_size) < 0)
            refuse(l, "its serial number can't be read");
        else
            l->certificate = 1;
        l->certificate_ends_us = (int64_t)gnutls_x509_crt_get_expiration_time(certificate) * US_PER_S;
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
        take_names(l, &chain[0]);
}
