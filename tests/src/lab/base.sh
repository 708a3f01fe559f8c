# Makes the root file system that the lab's hosts begin with: base.sh <suite> <mirror> <dir> <packages>
# Its text is part of the cache key: after a change here a new base is built.
# A host gets its own name, machine id, host key and authorized key when it is made, not here.
set -eu
suite=$1 mirror=$2 dir=$3 packages=$4

debootstrap --variant=minbase --include="$packages" "$suite" "$dir" "$mirror"
rm -rf "$dir"/var/cache/apt/* "$dir"/var/lib/apt/lists/*
rm -f "$dir"/etc/ssh/ssh_host_* "$dir/etc/hostname"

# There, but not running: tests enable them.
for unit in nginx nsd; do
    systemctl --root="$dir" --quiet disable "$unit.service"
done
systemctl --root="$dir" --quiet enable ssh.service
# Nothing here has a console, and nothing may wake up in the middle of a measurement.
systemctl --root="$dir" --quiet mask console-getty.service getty.target apt-daily.timer apt-daily-upgrade.timer \
    dpkg-db-backup.timer e2scrub_all.timer fstrim.timer

# Without this a process that outlives its ssh session by accident goes unnoticed.
mkdir -p "$dir/etc/systemd/logind.conf.d"
printf '[Login]\nKillUserProcesses=yes\n' >"$dir/etc/systemd/logind.conf.d/lab.conf"

# Debian's defaults, but the tests may open many connections at once.
printf 'MaxStartups 200\nMaxSessions 100\n' >"$dir/etc/ssh/sshd_config.d/lab.conf"

# core: as on a cloud image. asks: sudo wants a password. plain: no way to root at all.
for user in core asks plain; do
    chroot "$dir" useradd --create-home --shell /bin/bash "$user"
done
echo 'core ALL=(ALL) NOPASSWD: ALL' >"$dir/etc/sudoers.d/core"
echo 'asks ALL=(ALL) ALL' >"$dir/etc/sudoers.d/asks"
chmod 0440 "$dir/etc/sudoers.d/core" "$dir/etc/sudoers.d/asks"
echo 'asks:lab' | chroot "$dir" chpasswd

# Containers, where there is podman: a host of the lab has no cgroup controllers to limit them with.
mkdir -p "$dir/etc/containers"
printf '[containers]\npids_limit = 0\n' >"$dir/etc/containers/containers.conf"

# A lab host is as minimal as Flatcar in what we might be tempted to use.
for program in git python3; do
    if chroot "$dir" sh -c "command -v $program" >/dev/null; then
        echo "the base has $program, which hosts must not have" >&2
        exit 1
    fi
done
