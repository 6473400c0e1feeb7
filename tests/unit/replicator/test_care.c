/* How often space is given back. */
#include "replicator/private.h"
#include "tap.h"

int main(void)
{
    is_int(care_space_every_us(false, 0), 300 * US_PER_S, "every five minutes");
    is_int(care_space_every_us(false, 75 * US_PER_S), 300 * US_PER_S, "also where it takes a fourth of them");
    is_int(care_space_every_us(false, 3600 * US_PER_S), 4 * 3600 * US_PER_S, "where it takes long, it takes a fourth of the time still");
    is_int(care_space_every_us(true, 3600 * US_PER_S), 10 * US_PER_S, "without room it goes on at once");
    return tap_done();
}
