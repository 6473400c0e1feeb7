/* The door, by what gets through it: frames of the copy are heard on the real network only while it is open, and the copy is told each
 * time who its gateway is. */
#include "conformance/target/fixture.h"
#include "target/network.h"

#include <arpa/inet.h>
#include <net/if.h>
#include <netinet/if_ether.h>
#include <netpacket/packet.h>
#include <pthread.h>
#include <sched.h>
#include <fcntl.h>
#include <poll.h>
#include <stdatomic.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/wait.h>

static const uint8_t copy_mac[6] = {0x52, 0x54, 0x00, 0x00, 0x02, 0x11};

struct ear {
    const char *netns_path, *interface;
    uint8_t mac[6]; /* of the interface */
    int fd;
};

static void *make_ear(void *user)
{
    struct ear *ear = user;
    struct sockaddr_ll at = {.sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_ALL)};
    struct ifreq request = {0};
    int netns = open(ear->netns_path, O_RDONLY);

    MUST(netns >= 0 && setns(netns, CLONE_NEWNET) == 0);
    close(netns);
    ear->fd = socket(AF_PACKET, SOCK_RAW | SOCK_NONBLOCK | SOCK_CLOEXEC, htons(ETH_P_ALL));
    snprintf(request.ifr_name, sizeof request.ifr_name, "%s", ear->interface);
    MUST(ioctl(ear->fd, SIOCGIFINDEX, &request) == 0);
    at.sll_ifindex = request.ifr_ifindex;
    MUST(bind(ear->fd, (struct sockaddr *)&at, sizeof at) == 0 && ioctl(ear->fd, SIOCGIFHWADDR, &request) == 0);
    memcpy(ear->mac, request.ifr_hwaddr.sa_data, 6);
    return NULL;
}

static void ear_open(struct ear *ear)
{
    pthread_t thread;

    MUST(pthread_create(&thread, NULL, make_ear, ear) == 0);
    pthread_join(thread, NULL);
}

/* What was heard since the last call: frames from the copy; ARP replies to the copy, and what hardware address the last one told. */
static void hear(struct ear *ear, int *from_copy, int *told, uint8_t told_mac[6])
{
    uint8_t frame[2048];
    ssize_t got;

    *from_copy = *told = 0;
    while ((got = recv(ear->fd, frame, sizeof frame, 0)) > 0) {
        const struct ether_arp *arp = (const struct ether_arp *)(frame + 14);

        *from_copy += got >= 14 && memcmp(frame + 6, copy_mac, 6) == 0;
        if (got >= 42 && frame[12] == 0x08 && frame[13] == 0x06 && ntohs(arp->ea_hdr.ar_op) == ARPOP_REPLY &&
            memcmp(frame, copy_mac, 6) == 0) {
            memcpy(told_mac, arp->arp_sha, 6);
            (*told)++;
        }
    }
}

static void moves(const struct target_api *api, struct target *t, struct fixture *f, const char *instances)
{
    struct network n;
    char real_path[64];
    struct ear outside = {real_path, "br0", {0}, -1}, inside = {n.netns_path, "tap0", {0}, -1}, bridge = {n.netns_path, "br0", {0}, -1};
    uint8_t told_mac[6] = {0};
    int from_copy, told, fd;
    struct err why = {0};

    snprintf(real_path, sizeof real_path, "/run/netns/%s", f->netns);
    MUST(network_of(instances, "", "door-1", &n, NULL) == 0);
    ear_open(&outside), ear_open(&inside), ear_open(&bridge);

    does(api->set_net(t, "door-1", TARGET_NET_CLOSED, e), "the closed door is closed");
    hear(&outside, &from_copy, &told, told_mac);
    is_int(from_copy, 0, "nothing of the copy is heard outside");
    hear(&inside, &from_copy, &told, told_mac);
    ok(from_copy > 0, "though it says who it is (%d frames)", from_copy);
    ok(told > 0 && memcmp(told_mac, bridge.mac, 6) == 0, "it is told that the gateway is our bridge");

    MUST(shell("ip -n %s link add port0 master br0 up type veth peer name host0 && ip -n %s addr add 192.0.2.11/32 dev host0 && "
               "ip -n %s link set host0 up", f->netns, f->netns, f->netns) == 0);
    refuses(api->set_net(t, "door-1", TARGET_NET_OPEN, e), ERR_CONFLICT, "the door stays shut while its address answers outside");
    hear(&outside, &from_copy, &told, told_mac);
    is_int(from_copy, 0, "and nothing is heard");
    MUST(shell("ip -n %s link del host0", f->netns) == 0);
    does(api->set_net(t, "door-1", TARGET_NET_OPEN, e), "the door is opened");
    hear(&outside, &from_copy, &told, told_mac);
    ok(from_copy > 0, "the copy is heard outside (%d frames)", from_copy);
    hear(&inside, &from_copy, &told, told_mac);
    ok(told > 0 && memcmp(told_mac, outside.mac, 6) == 0, "it is told that the gateway is the real one");
    ok(shell("! ip -n %s -4 -o addr show dev br0 | grep -q 192.0.2.1/", n.netns) == 0, "and we gave up the gateway's address");
    ok(shell("ip -n %s link show dev %s", f->netns, n.door) == 0, "the door's outer end hangs on the real bridge");
    fd = api->connect(t, "door-1", "192.0.2.1", 9, 2000, &why);
    ok(fd < 0 && why.kind == ERR_UNREACHABLE, "connections come from the real network now: its own address refuses (%s)", why.message);

    does(api->set_net(t, "door-1", TARGET_NET_CLOSED, e), "the door is closed again");
    hear(&outside, &from_copy, &told, told_mac); /* what came before it closed */
    does(api->set_net(t, "door-1", TARGET_NET_CLOSED, e), "and stays so");
    hear(&outside, &from_copy, &told, told_mac);
    is_int(from_copy, 0, "nothing is heard outside");
    ok(shell("ip -n %s -4 -o addr show dev br0 | grep -q 192.0.2.1/24", n.netns) == 0, "our bridge is the gateway");
    ok(shell("! ip -n %s link show dev %s 2>/dev/null", f->netns, n.door) == 0, "the door's outer end is gone");

    MUST(shell("ip -n %s link add %s type veth peer name half0", n.netns, NETWORK_DOOR) == 0);
    does(api->set_net(t, "door-1", TARGET_NET_OPEN, e), "half a door, of a caller that was killed, is opened");
    hear(&outside, &from_copy, &told, told_mac);
    ok(from_copy > 0, "the copy is heard outside (%d frames)", from_copy);
    close(outside.fd), close(inside.fd), close(bridge.fd);
}

/* A machine that has the address and hears only every third question: frames get lost. */
struct hard_of_hearing {
    struct ear ear;
    int heard;
    atomic_bool stop;
};

static void *answer(void *user)
{
    struct hard_of_hearing *m = user;
    uint8_t frame[2048];

    while (!atomic_load(&m->stop)) {
        struct pollfd p = {m->ear.fd, POLLIN, 0};
        struct ether_arp *arp = (struct ether_arp *)(frame + 14);
        ssize_t got = poll(&p, 1, 20) > 0 ? recv(m->ear.fd, frame, sizeof frame, 0) : -1;
        static const uint8_t wanted[4] = {192, 0, 2, 11};

        if (got < 42 || frame[12] != 0x08 || frame[13] != 0x06 || ntohs(arp->ea_hdr.ar_op) != ARPOP_REQUEST || memcmp(arp->arp_tpa, wanted, 4) != 0 ||
            ++m->heard % 3 != 0)
            continue;
        memcpy(frame, arp->arp_sha, 6);
        memcpy(frame + 6, m->ear.mac, 6);
        memcpy(arp->arp_tha, arp->arp_sha, 6), memcpy(arp->arp_tpa, arp->arp_spa, 4);
        memcpy(arp->arp_sha, m->ear.mac, 6), memcpy(arp->arp_spa, wanted, 4);
        arp->ea_hdr.ar_op = htons(ARPOP_REPLY);
        MUST(send(m->ear.fd, frame, 42, 0) == 42);
    }
    return NULL;
}

static void asks_again(const struct target_api *api, struct target *t, struct fixture *f)
{
    char path[64];
    struct hard_of_hearing m = {.ear = {path, "host0", {0}, -1}};
    pthread_t thread;

    snprintf(path, sizeof path, "/run/netns/%s", f->netns);
    MUST(shell("ip -n %s link add port0 master br0 up type veth peer name host0 && ip -n %s link set host0 up", f->netns, f->netns) == 0);
    ear_open(&m.ear);
    MUST(pthread_create(&thread, NULL, answer, &m) == 0);
    refuses(api->set_net(t, "door-1", TARGET_NET_OPEN, e), ERR_CONFLICT, "one lost frame does not open the door while its address is somebody's");
    atomic_store(&m.stop, true);
    pthread_join(thread, NULL);
    close(m.ear.fd);
    MUST(shell("ip -n %s link del host0", f->netns) == 0);
}

/* A caller of its own opens the door, and is killed when it gives the helper its address. */
static void killed_while_it_opens(const struct target_api *api, struct fixture *f, const struct network *n)
{
    CLEANUP(free_ptr) char *path = xasprintf("%s/programs:%s", f->folder, getenv("PATH"));
    CLEANUP(json_free) json_t *settings = fixture_settings(f);
    struct target *t = NULL;
    struct err why = {0};
    int status = 0, fd;
    pid_t child;

    json_object_set_new(json_object_get(json_object_get(settings, "networks"), "real"), "helper", json_string("192.0.2.250/24"));
    MUST(api->open(settings, &t, NULL) == 0);
    MUST(shell("mkdir %s/programs && printf '#!/bin/sh\ncase \"$*\" in *192.0.2.250*) kill -9 $PPID; exit 1 ;; esac\nexec '\"$(command -v ip)\"' \"$@\"\n' "
               ">%s/programs/ip && chmod +x %s/programs/ip", f->folder, f->folder, f->folder) == 0);
    child = fork();
    if (child == 0) {
        setenv("PATH", path, 1);
        _exit(api->set_net(t, "door-1", TARGET_NET_OPEN, NULL) == 0 ? 0 : 1);
    }
    ok(waitpid(child, &status, 0) == child && WIFSIGNALED(status), "a caller is killed while it opens the door");
    MUST(shell("rm -r %s/programs", f->folder) == 0);
    does(api->set_net(t, "door-1", TARGET_NET_OPEN, e), "it is opened again");
    fd = api->connect(t, "door-1", "192.0.2.1", 9, 2000, &why);
    ok(fd < 0 && why.kind == ERR_UNREACHABLE && strstr(why.message, "refused"), "and who looks from inside has an address there (%s)", why.message);
    does(api->set_net(t, "door-1", TARGET_NET_CLOSED, e), "it is closed");
    MUST(shell("ip -n %s addr flush dev " NETWORK_BRIDGE, n->netns) == 0);
    does(api->set_net(t, "door-1", TARGET_NET_CLOSED, e), "one that was left half way is closed");
    ok(shell("ip -n %s -4 -o addr show dev br0 | grep -q 192.0.2.1/24", n->netns) == 0, "and our bridge is the gateway again");
    api->close(t);
}

/* Where the kernel can't be asked, an open door must not be taken for a closed one. */
static void looks(const struct target_api *api, struct target *t, struct fixture *f)
{
    CLEANUP(free_ptr) char *before = xstrdup(getenv("PATH")), *path = xasprintf("%s/programs:%s", f->folder, before);

    MUST(shell("mkdir %s/programs && printf '#!/bin/sh\\necho Cannot send dump request: No buffer space available >&2\\nexit 1\\n' >%s/programs/ip && "
               "chmod +x %s/programs/ip", f->folder, f->folder, f->folder) == 0);
    setenv("PATH", path, 1);
    refuses(api->set_net(t, "door-1", TARGET_NET_CLOSED, e), ERR_IO, "a door that nobody can look at is not said to be closed");
    setenv("PATH", before, 1);
    MUST(shell("rm -r %s/programs", f->folder) == 0);
    does(api->set_net(t, "door-1", TARGET_NET_CLOSED, e), "where it can be looked at, it is");
}

int main(void)
{
    const struct target_api *api = target_find("local-qemu");
    struct target *t = NULL;
    struct fixture f;
    struct target_spec spec;
    struct network n;
    char instances[96];

    if (geteuid() != 0) {
        printf("1..0 # SKIP needs root: network namespaces\n");
        return 0;
    }
    MUST(fixture_begin(&f) == 0);
    CLEANUP(json_free) json_t *settings = fixture_settings(&f);
    snprintf(instances, sizeof instances, "%s/instances", f.folder);
    MUST(network_of(instances, "", "door-1", &n, NULL) == 0);
    does(api->open(settings, &t, e), "the target opens");
    spec = fixture_spec(&f, "door-1");
    spec.net = TARGET_NET_CLOSED;
    spec.network = "real";
    does(api->launch(t, &spec, e), "a machine is launched behind a closed door");
    ok(prints(api, t, "door-1", PROBE_TEXT, 60000), "it boots");
    moves(api, t, &f, instances);
    looks(api, t, &f);
    asks_again(api, t, &f);
    killed_while_it_opens(api, &f, &n);
    does(api->set_net(t, "door-1", TARGET_NET_OPEN, e), "it is opened");
    does(api->remove(t, "door-1", e), "and removed while it is open");
    ok(shell("[ $(ip -n %s -o link show master br0 | wc -l) = 0 ]", f.netns) == 0, "nothing is left on the real bridge");
    ok(!network_exists(&n), "no namespace is left");
    api->close(t);
    fixture_end(&f);
    return tap_done();
}
