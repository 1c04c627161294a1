#!/bin/busybox sh
# The first process of the virtual machine: mounts what the job expects, runs it, says how it ended, switches off.
/bin/busybox --install -s /bin
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm /dev/net
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs tmpfs /tmp
mount -t bpf bpf /sys/fs/bpf
mount -t cgroup2 cgroup2 /sys/fs/cgroup
ln -sf /proc/self/fd /dev/fd
for module in /modules/*.ko; do insmod "$module"; done
ip link set lo up
ulimit -n 20000
# The terminal would add a carriage return to every line.
stty -F /dev/console -onlcr
# The firmware left its last line unfinished.
echo
echo "@@begin"
/bin/sh /job 2>&1
code=$?
# On a line of its own, also where the job's last line has no newline.
echo
echo "@@end $code"
poweroff -f
