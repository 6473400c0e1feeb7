/* fixture: a temporary folder with a CA and certificates of every sort, and the HTTP layer served with them on a free port. */
#pragma once

#include "api/httpd.h"
#include "ask.h"
#include "base/file.h"

#include <signal.h>
#include <stdatomic.h>
#include <unistd.h>

static char folder[] = "/tmp/slipway-api-XXXXXX";

__attribute__((format(printf, 1, 2), unused)) static void shell(const char *format, ...)
{
    char command[2000];
    va_list args;

    va_start(args, format);
    vsnprintf(command, sizeof command, format, args);
    va_end(args);
    MUST(system(command) == 0);
}

__attribute__((unused)) static const char *in(const char *name)
{
    static char paths[4][200];
    static int which;

    which = (which + 1) % 4;
    snprintf(paths[which], sizeof paths[which], "%s/%s", folder, name);
    return paths[which];
}

static void make_certificates(void)
{
    MUST(mkdtemp(folder));
    shell("cd %s && exec >/dev/null 2>&1 && new() { openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout $1.key "
          "-subj /CN=$2 -out $1.csr; } && "
          "for ca in ca other; do openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout $ca.key -subj /CN=$ca -out $ca.pem; done && "
          "printf 'subjectAltName=IP:127.0.0.1\\nextendedKeyUsage=serverAuth\\n' >server.ext && printf 'extendedKeyUsage=clientAuth\\n' >client.ext && "
          "sign() { openssl x509 -req -in $1.csr -CA $2.pem -CAkey $2.key -CAcreateserial -out $1.pem -extfile $3.ext -days $4; } && "
          "new server server && sign server ca server 2 && new runner runner:dc1 && sign runner ca client 2 && "
          "new stranger runner:dc1 && sign stranger other client 2 && new wrong runner:dc1 && sign wrong ca server 2 && "
          "new late runner:dc1 && openssl x509 -req -in late.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out late.pem -extfile client.ext -days -1",
          folder);
    snprintf(ask_ca, sizeof ask_ca, "%s/ca.pem", folder);
}

static struct buf read_file(const char *name)
{
    struct buf text = {0};
    struct err e;

    MUST(file_read(in(name), 65536, &text, &e) == 0);
    return text;
}

static void fixture_start(void)
{
    signal(SIGPIPE, SIG_IGN);
    curl_global_init(CURL_GLOBAL_ALL);
    make_certificates();
}

/* Starts a server with these options and the fixture's certificates; ask() then talks to it. */
static void fixture_serve(const struct httpd_options *options, struct httpd_server **out)
{
    CLEANUP(buf_release) struct buf key = read_file("server.key"), certificate = read_file("server.pem"), ca = read_file("ca.pem");
    struct httpd_options o = *options;
    struct err e = {0};

    o.key_pem = key.data;
    o.certificate_pem = certificate.data;
    o.ca_pem = ca.data;
    if (httpd_start(&o, out, &e) < 0) {
        fprintf(stderr, "%s\n", e.message);
        abort();
    }
    ask_port = httpd_port(*out);
}

static void fixture_end(void)
{
    shell("rm -rf %s", folder);
    curl_global_cleanup();
}
