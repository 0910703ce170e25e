#!/bin/busybox sh
# Licensed under the Apache License, Version 2.0 (the "License"); you may
# not use this file except in compliance with the License. You may obtain
# a copy of the License at
#
#      http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS, WITHOUT
# WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied. See the
# License for the specific language governing permissions and limitations
# under the License.

# The lab's guest: process 1 of an initramfs with busybox and qemu-ga. Its
# root disk is one ext4 file system. It checks what it finds there, says so
# on the console, and then writes all the time.
#
# In each round the number of the round goes to `journal`, `a` and `b`, in
# this order, each on the disk before the next is touched. So at any instant
#     b <= a <= the journal's last line <= b + 1
# and a copy of the disk that breaks this is not of one instant.

/bin/busybox mkdir -p /bin /proc /sys /dev /run /tmp /var/run /mnt
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev

for module in $(cat /modules/order); do
    insmod "/modules/$module"
done

# Asked only whether this accelerator can run a guest at all.
if grep -q lab.probe /proc/cmdline; then
    echo 'probe ok'
    poweroff -f
fi

# Name the ports as udev would.
mkdir -p /dev/virtio-ports
for port in /sys/class/virtio-ports/*; do
    [ -s "$port/name" ] || continue
    ln -sf "/dev/${port##*/}" "/dev/virtio-ports/$(cat "$port/name")"
done
# With this the agent runs a program before it freezes and after it thaws.
# Tests put another one there, that fails or takes its time.
if grep -q lab.hook /proc/cmdline; then
    hook=--fsfreeze-hook=/run/hook
    printf '#!/bin/sh\n' > /run/hook
    chmod +x /run/hook
fi
qemu-ga --statedir /run --logfile /run/qemu-ga.log $hook --path \
    /dev/virtio-ports/org.qemu.guest_agent.0 &

# Whoever saw the guest write may ask its agent: wait for its port, some 10 s.
tries=0
while [ -e /dev/virtio-ports/org.qemu.guest_agent.0 ] &&
        [ $((tries += 1)) -le 200 ] &&
        ! ls -l /proc/$!/fd 2> /dev/null | grep -q /dev/vport; do
    usleep 50000
done

while ! [ -b /dev/vda ]; do
    usleep 50000
done

# The journal's lines follow one another, and its last is a or a + 1.
check_journal() {
    awk -v a="$a" '
        NR > 1 && $1 != last + 1 { bad = 1 }
        { last = $1 }
        END { exit !(!bad && NR && (last == a || last == a + 1)) }
    ' /mnt/journal
}

verdict() {
    if "$@" > /dev/null 2>&1; then echo ok; else echo bad; fi
}

check_payload() {
    cd /mnt && md5sum -c payload.md5
}

check_fs() {
    [ "$mounted" = 0 ] && ! dmesg | grep -q 'EXT4-fs error'
}

mount -t ext4 -o noinit_itable /dev/vda /mnt
mounted=$?
round=0
if [ -e /mnt/a ] || [ "$mounted" != 0 ]; then
    read -r a < /mnt/a
    read -r b < /mnt/b
    journal=$(verdict check_journal)
    payload=$(verdict check_payload)
    replayed=no
    dmesg | grep -q 'EXT4-fs.*recovery complete' && replayed=yes
    read -r now _ < /proc/uptime
    echo "restored a=$a b=$b journal=$journal payload=$payload" \
        "fs=$(verdict check_fs) replayed=$replayed uptime=$now"
    round=$((a))
    # What was killed in a round is already in the journal with it.
    [ "$(tail -n 1 /mnt/journal)" = $((a + 1)) ] && round=$((a + 1))
fi

# Rounds kept in the journal, and blocks of 4 KiB in the reused file.
JOURNAL_ROUNDS=5000
RING_BLOCKS=1024

while :; do
    round=$((round + 1))
    [ $((round % JOURNAL_ROUNDS)) = 1 ] && : > /mnt/journal
    echo "$round" >> /mnt/journal
    dd if=/mnt/payload/00 of=/mnt/ring bs=4096 count=1 conv=notrunc \
        skip=$((round % 2000)) seek=$((round % RING_BLOCKS)) 2> /dev/null
    # In place: a file that is cut first could be caught empty.
    printf '%-15d\n' "$round" 1<> /mnt/a
    sync /mnt/journal /mnt/ring /mnt/a
    printf '%-15d\n' "$round" 1<> /mnt/b
    sync /mnt/b
    read -r now _ < /proc/uptime
    echo "seq $round $now"
    # Some 8 rounds a second. Without a pause, an emulated guest takes a whole
    # core of the host just to start `sync`.
    usleep 100000
done
