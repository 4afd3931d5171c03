# End the walsenders $ended, which would hold up the end of this server; tell those of our standbys.
sql -c "SELECT pg_terminate_backend(pid) FROM pg_stat_replication WHERE pid IN ($ended)" >/dev/null
sql -c "SELECT 'spared ' || coalesce(string_agg(pid::text, ' '), '') FROM pg_stat_replication
  WHERE pid NOT IN ($ended) AND lower(application_name) IN ($ours)"
