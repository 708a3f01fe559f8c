# Makes the disks of an image-based machine from the root that vm.sh has made: image.sh <dir>. <dir>/root is used up.
# The result: <dir>/image.img, the read-only root, and <dir>/var.img, all that changes.
# Its text is part of the cache key.
set -eu
dir=$1 root=$1/root

# A server's image: nginx with what it needs, and places to mount on. The machine itself has no nginx.
web=$dir/web
mkdir -p "$web/etc/nginx" "$web/usr/sbin" "$web/usr/lib" "$web/srv" "$web/dev" "$web/proc" "$web/sys" "$web/run" \
    "$web/tmp" "$web/var/lib/nginx" "$web/var/log/nginx" "$web/var/tmp"
for link in lib lib64 sbin; do ln -s "usr/$link" "$web/$link"; done
cp -a "$root/etc/passwd" "$root/etc/group" "$web/etc"
echo 'ID=lab' >"$web/usr/lib/os-release"
chroot "$root" ldd /usr/sbin/nginx | grep -o '/lib[^ ]*' | while read -r library; do
    install -D "$root/$library" "$web/usr$library"
done
mv "$root/usr/sbin/nginx" "$web/usr/sbin/nginx"
mkdir "$root/var/lib/images"
mkfs.erofs --quiet "$root/var/lib/images/web.raw" "$web"
rm -rf "$web" "$root"/etc/nginx "$root"/usr/share/nginx "$root"/lib/systemd/system/nginx.service

# No package manager, no script language but the shell.
rm -rf "$root"/usr/bin/apt* "$root"/usr/bin/dpkg* "$root"/usr/lib/apt "$root"/usr/lib/dpkg "$root"/etc/apt \
    "$root"/etc/dpkg "$root"/var/lib/apt "$root"/var/lib/dpkg "$root"/usr/bin/perl* "$root"/usr/bin/python*
# As on such machines, all that changes is in /var.
mkdir "$root/var/home" "$root/var/srv"
for moved in home opt srv root; do
    rm -rf "$root/var/$moved"
    mv "$root/$moved" "$root/var/$moved"
    ln -s "var/$moved" "$root/$moved"
done
systemctl --root="$root" --quiet mask auditd.service
rm -rf "$root"/boot "$root"/vmlinuz* "$root"/initrd.img*
printf 'tmpfs /tmp tmpfs defaults 0 0\n' >"$root/etc/fstab"

mv "$root/var" "$dir/var"
mkdir "$root/var"
mkfs.erofs --quiet "$dir/image.img" "$root"
mkfs.ext4 -q -d "$dir/var" -E nodiscard,lazy_itable_init=0 "$dir/var.img" 1G
rm -rf "$root" "$dir/var"
