#!/bin/sh
# As much of the images of PostgreSQL, Miniflux and nginx as the example needs.
set -eu
if [ -n "${POSTGRES_PASSWORD-}" ]; then
    data=/var/lib/postgresql/data as_postgres="setpriv --reuid=999 --regid=999 --clear-groups"
    mkdir -p /run/postgresql
    chown 999 $data /run/postgresql
    if [ ! -e $data/PG_VERSION ]; then
        echo "$POSTGRES_PASSWORD" >/password
        $as_postgres initdb --username="$POSTGRES_USER" --pwfile=/password --auth-local=trust -D $data
        echo "host all all all scram-sha-256" >>$data/pg_hba.conf
        echo "create database $POSTGRES_DB" | $as_postgres postgres --single -D $data postgres
    fi
    exec $as_postgres postgres -D $data -c listen_addresses='*' -c unix_socket_directories=/run/postgresql
elif [ -n "${DATABASE_URL-}" ]; then
    mkdir -p /www
    psql "$DATABASE_URL" -c 'create table if not exists starts (at timestamptz); insert into starts values (now())'
    psql "$DATABASE_URL" -tAc 'select count(*) from starts' >/www/starts
    echo "$BASE_URL" >/www/index.html
    echo OK >/www/healthcheck
    echo 'events {} http { server { listen 8080; root /www; } }' >/etc/nginx/nginx.conf
fi
exec nginx -g 'daemon off;'
