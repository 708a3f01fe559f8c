# Prints a file system for a container, with the programs of another one: image.sh <root> <entry point>
set -eu
root=$1 entry=$2
new=$(mktemp -d)
trap 'rm -r "$new"' EXIT
cd "$new"

mkdir -p usr/bin usr/sbin usr/lib usr/lib64 etc/nginx run tmp proc sys dev var/log/nginx var/lib/nginx \
    var/lib/postgresql/data
for dir in bin sbin lib lib64; do
    ln -s "usr/$dir" "$dir"
done
ln -s /run var/run

pg=/usr/lib/postgresql/15
binaries="/usr/bin/cat /usr/bin/mkdir /usr/bin/chown /usr/bin/setpriv /usr/bin/sh /usr/sbin/nginx
    $pg/bin/postgres $pg/bin/initdb $pg/bin/pg_dump $pg/bin/psql $pg/bin/pg_isready $pg/lib/dict_snowball.so $pg/lib/plpgsql.so"
libraries=$(for file in $binaries; do chroot "$root" ldd "$file"; done | grep -o '/[^ ]*[.]so[^ ]*' | sort -u)
for file in $binaries $libraries /usr/share/zoneinfo/UTC; do
    mkdir -p ".${file%/*}"
    cp -L "$root$file" ".$file"
done
mkdir usr/share/postgresql
cp -r "$root/usr/share/postgresql/15" usr/share/postgresql/15

printf 'root:x:0:0::/:/bin/sh\npostgres:x:999:999::/:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n' >etc/passwd
printf 'root:x:0:\npostgres:x:999:\nnogroup:x:65534:\n' >etc/group
install -m 0755 /dev/null entry
printf '%s' "$entry" >entry
tar --create .
