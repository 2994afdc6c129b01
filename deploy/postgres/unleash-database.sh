#!/bin/sh
# Run once by the PostgreSQL image, on an empty volume: Unleash has a database and a user of its own.
set -eu
psql --set ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname "$POSTGRES_DB" \
    --set secret="$UNLEASH_DATABASE_PASSWORD" <<'SQL'
CREATE ROLE unleash LOGIN PASSWORD :'secret';
CREATE DATABASE unleash OWNER unleash;
REVOKE CONNECT ON DATABASE unleash FROM PUBLIC;
SQL
