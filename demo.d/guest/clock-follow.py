"""clock-follow: sets the system clock from the hardware clock when they differ by more than a second and a half, as they do after a
machine was stopped and resumed. (A guest that is resumed from a file finds the real time in its hardware clock.)"""
import datetime
import time


def hardware_seconds():
    with open("/sys/class/rtc/rtc0/date", encoding="ascii") as date, open("/sys/class/rtc/rtc0/time", encoding="ascii") as clock:
        text = date.read().strip() + "T" + clock.read().strip() + "+00:00"
    return datetime.datetime.fromisoformat(text).timestamp()


def main():
    while True:
        before = hardware_seconds()
        if abs(before + 0.5 - time.time()) > 1.5:
            while (now := hardware_seconds()) == before:  # the hardware clock has no fractions: set at its tick
                time.sleep(0.01)
            time.clock_settime(time.CLOCK_REALTIME, now)
        time.sleep(1)


main()
