# For whom the commits of a server wait that is a standby, once it is promoted; the reload comes with the rest.
sql -c "ALTER SYSTEM SET synchronous_standby_names = $names"
