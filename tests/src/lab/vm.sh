# Makes the disk of a virtual machine from a copy of a base: vm.sh <dir> <packages>. The copy is <dir>/root. The result:
# <dir>/disk.img, vmlinuz, initrd.img. image.sh then makes the other kind of machine from the same root.
# Its text is part of the cache key.
set -eu
dir=$1 root=$1/root
shift

mount -t proc proc "$root/proc"
trap 'umount "$root/proc"' EXIT
export DEBIAN_FRONTEND=noninteractive
apt() { chroot "$root" apt-get -q -y --no-install-recommends "$@"; }

# The initial file system has only what finds the disk.
mkdir -p "$root/etc/initramfs-tools/conf.d"
printf 'MODULES=list\nCOMPRESS=lz4\n' >"$root/etc/initramfs-tools/conf.d/lab"
printf 'virtio_pci\nvirtio_blk\next4\nerofs\noverlay\n' >"$root/etc/initramfs-tools/modules"
# Where the root is an image: what changes is on another disk, and /etc is an overlay before systemd reads it.
script=$root/etc/initramfs-tools/scripts/init-bottom/image
mkdir -p "${script%/*}"
cat >"$script" <<'SCRIPT'
#!/bin/sh
[ "$1" = prereqs ] || [ "$ROOTFSTYPE" != erofs ] && exit
var=$rootmnt/var etc=$rootmnt/var/lib/overlay/etc
mount -t ext4 /dev/vdb "$var"
# A reset to what the image has.
if [ -e "$etc/reset" ]; then mv "$etc" "$etc.before"; fi
mkdir -p "$etc/upper" "$etc/work"
mount -t overlay -o "lowerdir=$rootmnt/etc,upperdir=$etc/upper,workdir=$etc/work" overlay "$rootmnt/etc"
SCRIPT
chmod +x "$script"
apt update
apt -o Dpkg::Options::=--force-confold install initramfs-tools lz4 "$@"
rm -rf "$root"/var/lib/apt/lists/* "$root"/var/cache/apt/*

printf '/dev/vda / ext4 defaults 0 0\n' >"$root/etc/fstab"
printf 'SELINUX=enforcing\nSELINUXTYPE=default\n' >"$root/etc/selinux/config"
# A network manager would take seconds, under emulation. qemu gives the machine this address.
cat >"$root/etc/systemd/system/lab-network.service" <<'UNIT'
[Unit]
Wants=sys-subsystem-net-devices-eth0.device
After=sys-subsystem-net-devices-eth0.device
Before=network.target
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/ip addr add 10.0.2.15/24 dev eth0
ExecStart=/bin/ip link set eth0 up
[Install]
WantedBy=multi-user.target
UNIT
systemctl --root="$root" --quiet enable lab-network.service
# What takes longest at boot: looking at every device, and compiling audit rules.
for unit in systemd-udev-trigger auditd; do mkdir "$root/etc/systemd/system/$unit.service.d"; done
cat >"$root/etc/systemd/system/systemd-udev-trigger.service.d/lab.conf" <<'UNIT'
[Service]
ExecStart=
ExecStart=-udevadm trigger --action=add --subsystem-match=virtio --subsystem-match=block --subsystem-match=net
UNIT
printf '[Service]\nExecStartPost=\n' >"$root/etc/systemd/system/auditd.service.d/lab.conf"
systemctl --root="$root" --quiet mask dev-mqueue.mount dev-hugepages.mount sys-kernel-debug.mount \
    sys-kernel-tracing.mount sys-fs-fuse-connections.mount sys-kernel-config.mount kmod-static-nodes.service e2scrub_reap.service systemd-pstore.service getty@tty1.service \
    serial-getty@ttyS0.service

# Otherwise the first boot would do it, for minutes.
chroot "$root" setfiles -F /etc/selinux/default/contexts/files/file_contexts /
umount "$root/proc"
trap - EXIT
mv "$root"/boot/vmlinuz-* "$dir/vmlinuz"
mv "$root"/boot/initrd.img-* "$dir/initrd.img"
mkfs.ext4 -q -d "$root" -E nodiscard,lazy_itable_init=0 "$dir/disk.img" 2G
