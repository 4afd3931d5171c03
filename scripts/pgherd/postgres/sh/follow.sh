#> psql: ALTER SYSTEM SET primary_conninfo = $conninfo
#> psql: ALTER SYSTEM SET primary_slot_name = $slot
#> psql: SELECT pg_reload_conf()
# Another upstream for a standby that runs: PostgreSQL takes it at a reload.
sql -c "ALTER SYSTEM SET primary_conninfo = $conninfo" -c "ALTER SYSTEM SET primary_slot_name = $slot" \
  -c 'SELECT pg_reload_conf()' >/dev/null
